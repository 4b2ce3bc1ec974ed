"""A command as a Ray job: it runs on the cluster, and is followed from here."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from ray.dashboard.utils import ray_client_address_to_api_server_url
from ray.job_submission import JobSubmissionClient

from cluster.session import offer_token, require_answer, shipped

ANSWER_SECONDS = 10.0
SCHEMES = ("ray", "http", "https")  # of Ray Client, whose port many clusters publish; of dashboards


def run_as_job(
    address: str,
    words: Sequence[str],
    modules: Sequence[Path],
    say: Callable[[str], None],
    *,
    environment: Mapping[str, Any] | None = None,
    follow: bool = True,
) -> int:
    """Submit a command, and show what it prints until it ends -> its exit code.

    Args:
        address: ray://host:port or http://host:port.
        words: of the command.
        modules: folders of Python packages that it needs.
        say: shows lines.
        environment: what else of a runtime environment it has.
        follow: False returns 0 as soon as it is submitted.
    Raises:
        ConnectionError: no cluster answers there, or it refuses us.
        KeyboardInterrupt: nobody follows it any more; it goes on.
    """
    offer_token()
    try:
        client = JobSubmissionClient(_dashboard_of(address))
        whole = shipped(modules, {} if environment is None else environment)
        job: str = client.submit_job(entrypoint=shlex.join(words), runtime_env=whole)
    except (RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ConnectionError(f"Cannot submit a job to {address}: {reason}") from error
    say(f"Job        {job}; it goes on without this terminal. To stop it: ray job stop {job}")
    if not follow:
        return 0
    asyncio.run(_follow(client, job, say))
    code = client.get_job_info(job).driver_exit_code
    return 1 if code is None else int(code)


def _dashboard_of(address: str) -> str:
    """The address of a dashboard that answers: Ray itself would wait for ever for one that takes
    a connection and stays mute."""
    parts, url = urlsplit(address), address
    if parts.scheme == "ray":
        require_answer(parts.netloc)
        url = ray_client_address_to_api_server_url(address)
    try:
        requests.get(f"{url.rstrip('/')}/api/version", timeout=ANSWER_SECONDS)
    except requests.RequestException as error:
        raise ConnectionError(
            "no Ray dashboard answers there: name the one that `ray start --head` tells of "
            "(http://HEAD:8265 as a rule), or leave the address out to use this machine."
        ) from error
    return url


async def _follow(client: JobSubmissionClient, job: str, say: Callable[[str], None]) -> None:
    async for lines in client.tail_job_logs(job):
        say(lines.rstrip("\n"))
