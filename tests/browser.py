"""What the tests of pages share: a Chromium that reaches this machine alone, servers, screenshots.

`screenshots/` keeps what was seen, for people; it is emptied by nobody and ignored by git.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

SCREENSHOTS = Path(__file__).parent.parent / "screenshots"
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
WIDTH, HEIGHT = 1500, 1000  # pixels
SECONDS = 90  # for anything to appear, on a busy machine
SERVER_SECONDS = 120


@contextmanager
def chromium(*options: str) -> Iterator[Browser]:
    """Headless Chromium, with more options; skips where there is none."""
    path = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if path is None:
        pytest.skip("there is no Chromium: install one, as by `apt-get install chromium`")
    expect.set_options(timeout=SECONDS * 1000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", *options])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def page_of(browser: Browser) -> Iterator[Page]:
    """A page that has never been anywhere; fails if it asks for anything of another machine."""
    context = browser.new_context(viewport={"width": WIDTH, "height": HEIGHT})
    context.set_default_timeout(SECONDS * 1000)
    page, outside = context.new_page(), set[str]()

    def only_here(route: Route) -> None:
        if urlsplit(route.request.url).hostname in ("127.0.0.1", "localhost", None):
            route.continue_()
        else:
            outside.add(route.request.url)
            route.abort()

    page.route("**/*", only_here)
    try:
        yield page
    finally:
        context.close()
    assert not outside, f"asked for {sorted(outside)}"


def keep(page: Page, name: str, *, whole: bool = False) -> None:
    """A screenshot for people: of what is seen, or of the whole page."""
    SCREENSHOTS.mkdir(exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=whole)


def free_port() -> int:
    """One that nobody listened on just now."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port: int = server.getsockname()[1]
    return port


@contextmanager
def served(command: Sequence[str], url: str, log: Path) -> Iterator[None]:
    """A server, once it answers at `url`; its whole process group is ended."""
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=environment,
            cwd=log.parent,
        )
        try:
            _wait_for(url, process, log)
            yield
        finally:
            os.killpg(process.pid, 15)
            process.wait(timeout=60)


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + SERVER_SECONDS
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text(errors="replace")[-2000:]
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (OSError, urllib.error.URLError):
            time.sleep(0.3)
    pytest.fail(f"{url} never answered: {log.read_text(errors='replace')[-2000:]}")
