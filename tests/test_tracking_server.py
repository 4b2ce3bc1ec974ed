"""A real MLflow server as `cluster/mlflow` describes it: accounts, and secrets that stay secret."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
from picture_files import write_pictures
from real_cluster import free_port
from test_faults import below
from test_result import result
from tracked_study import checkpoint, options, told_of_two_rungs

from trainables.errors import UserError
from tuner.exit_codes import CANNOT_BE_MET
from tuner.registered_models import Models
from tuner.result import load
from tuner.tracking import Tracker

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(1800),
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
]

DESCRIBED = Path(__file__).parents[1] / "cluster" / "mlflow"
HOST = "mlflow.example.org"  # in nginx.conf
QUICK = Path(__file__).with_name("quick_launch.py")
PATIENCE = 900.0  # seconds; a busy machine is slow
NAMES = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A running one."""

    url: str
    password: str  # of its admin
    secrets: tuple[str, ...]  # that one, the database's, and the one that signs forms
    log: Path
    pid: int

    def environment(self, password: str | None = None) -> dict[str, str]:
        """What a study needs to log into it."""
        return dict(zip(NAMES, ("admin", password or self.password), strict=True))


def wait_for(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    ends = time.monotonic() + PATIENCE
    while not ready():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < ends, log.read_text()
        time.sleep(0.2)


@pytest.fixture(scope="module")
def database() -> Iterator[dict[str, str]]:
    """A PostgreSQL of our own -> the variables by which its clients find it and log in."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    binaries = found[-1].parent
    # It refuses to run as root, and pytest's folders are closed to others.
    user = "postgres" if os.geteuid() == 0 else None
    port, password = free_port(), secrets.token_urlsafe(24)
    with tempfile.TemporaryDirectory(prefix="pg-") as name:
        folder = Path(name)
        (folder / "password").write_text(password)
        if user is not None:
            for path in (folder, folder / "password"):
                shutil.chown(path, user)
        data, log = folder / "data", folder / "log"
        made_by = [binaries / "initdb", "-D", data, "-U", "tracking", "-A", "scram-sha-256"]
        made_by += ["--pwfile", folder / "password"]
        subprocess.run(made_by, user=user, cwd=folder, check=True, capture_output=True)
        run_by = [binaries / "postgres", "-D", data, "-p", str(port), "-k", folder]
        run_by += ["-c", "listen_addresses=127.0.0.1"]
        with log.open("wb") as file:
            server = subprocess.Popen(run_by, user=user, cwd=folder, stdout=file, stderr=file)
        clients = {"PGHOST": "127.0.0.1", "PGPORT": str(port)}
        clients |= {"PGUSER": "tracking", "PGPASSWORD": password}
        try:
            environment = {**os.environ, **clients}
            is_ready = [binaries / "pg_isready", "-q"]
            wait_for(lambda: not subprocess.call(is_ready, env=environment), server, log)
            subprocess.run([binaries / "createdb", "mlflow"], env=environment, check=True)
            yield clients
        finally:
            server.send_signal(signal.SIGINT)  # ends connections, too
            server.wait(PATIENCE)


@pytest.fixture(scope="module")
def server(database: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    port, password, key = free_port(), secrets.token_urlsafe(24), secrets.token_urlsafe(24)
    log = folder / "log"
    environment = {
        **os.environ,
        **database,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "MLFLOW_PORT": str(port),
        "MLFLOW_WORKERS": "1",
        "MLFLOW_SERVER_ALLOWED_HOSTS": f"127.0.0.1:{port},{HOST}",
        "MLFLOW_ARTIFACTS_DESTINATION": str(folder / "artifacts"),
        "MLFLOW_AUTH_ADMIN_PASSWORD": password,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": key,
    }
    with log.open("wb") as file:
        process = subprocess.Popen(
            [DESCRIBED / "serve.sh"],
            env=environment,
            cwd=folder,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"

    def healthy() -> bool:
        with suppress(requests.ConnectionError, requests.Timeout):
            return requests.get(f"{url}/health", timeout=30).ok
        return False

    try:
        wait_for(healthy, process, log)
        yield Server(
            url=url,
            password=password,
            secrets=(password, database["PGPASSWORD"], key),
            log=log,
            pid=process.pid,
        )
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(PATIENCE)


def holders(folder: Path, *texts: str) -> list[Path]:
    """The files below a folder that hold any of the texts."""
    wanted = [text.encode() for text in texts]
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    return [path for path in files if any(text in path.read_bytes() for text in wanted)]


def listening(port: int) -> set[str]:
    """The addresses at which somebody listens at a port, as the kernel writes them."""
    rows = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path("/proc/net", table).read_text().splitlines()[1:]
    ]
    places = [row[1].split(":") for row in rows if row[3] == "0A"]
    return {address for address, number in places if int(number, 16) == port}


def test_a_study_is_kept_by_a_server_with_accounts(server, tmp_path, monkeypatch):
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    lines: list[str] = []
    tracker = Tracker(server.url, storage=tmp_path, **options(lines))
    told_of_two_rungs(tracker, tmp_path)
    tracker.close()
    assert lines == []
    store = Models(server.url)._client
    (run,) = store.search_runs([tracker.place.experiment_id], "tags.kind = 'trial'")
    assert run.data.tags["state"] == "COMPLETE"
    assert run.data.params["inner.lr"] == "0.001"
    assert run.data.metrics["score/L"] == 1.0
    names = [item.path for item in store.list_artifacts(run.info.run_id, "images")]
    (name,) = (name for name in names if "+step+1+" in name and "compressed" not in name)
    picture = store.download_artifacts(run.info.run_id, name, str(tmp_path))
    sent = checkpoint(tmp_path / "my study", 0, 1) / "grid.png"
    assert Path(picture).read_bytes() == sent.read_bytes()
    assert run.info.artifact_uri.startswith("mlflow-artifacts:"), "the server holds the files"


def test_users_log_into_the_experiments_of_others_and_delete_none(server, tmp_path, monkeypatch):
    def api(call: str, account: tuple[str, str], body: dict[str, str]) -> requests.Response:
        page = f"{server.url}/api/2.0/mlflow/{call}"
        return requests.post(page, auth=account, json=body, timeout=PATIENCE)

    admin, other = ("admin", server.password), ("other", secrets.token_urlsafe(24))
    made = api("users/create", admin, {"username": other[0], "password": other[1]})
    assert made.status_code == 200, made.text
    for account in (admin, other):
        for name, value in zip(NAMES, account, strict=True):
            monkeypatch.setenv(name, value)
        lines: list[str] = []
        tracker = Tracker(server.url, storage=tmp_path, **options(lines, experiment="shared"))
        told_of_two_rungs(tracker, tmp_path)
        checkpoint(tmp_path / "my study", 1, 1)
        tracker.study_ended(result(tmp_path / "my study"), {})  # a version of one model
        assert lines == []
    experiment = {"experiment_id": tracker.place.experiment_id}
    assert api("experiments/delete", other, experiment).status_code == 403


def test_nginx_ends_tls_before_it(server, tmp_path, monkeypatch):
    if shutil.which("nginx") is None:
        pytest.skip("nginx is not installed: apt-get install nginx-light")
    key, certificate, port = tmp_path / "key.pem", tmp_path / "certificate.pem", free_port()
    made_by = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key]
    made_by += ["-out", certificate, "-subj", "/CN=x", "-addext", f"subjectAltName=DNS:{HOST}"]
    subprocess.run(made_by, check=True, capture_output=True)
    site = (DESCRIBED / "nginx.conf").read_text()
    for ours, here in (
        ("listen 443", f"listen 127.0.0.1:{port}"),
        (f"/etc/letsencrypt/live/{HOST}/fullchain.pem", str(certificate)),
        (f"/etc/letsencrypt/live/{HOST}/privkey.pem", str(key)),
        ("http://127.0.0.1:5000", server.url),
    ):
        assert ours in site
        site = site.replace(ours, here)
    log, configuration = tmp_path / "log", tmp_path / "nginx.conf"
    configuration.write_text(
        f"daemon off; user root; pid {tmp_path}/pid; events {{}}\n"
        f"http {{ access_log off; client_body_temp_path {tmp_path}; {site} }}\n"
    )
    with log.open("wb") as file:
        words = ["nginx", "-p", tmp_path, "-c", configuration, "-e", "stderr"]
        nginx = subprocess.Popen(words, stdout=file, stderr=file)
    real = socket.getaddrinfo

    def found(host, *arguments, **named):
        return real("127.0.0.1" if host == HOST else host, *arguments, **named)

    monkeypatch.setattr(socket, "getaddrinfo", found)
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(certificate))
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    try:
        wait_for(lambda: bool(listening(port)), nginx, log)
        lines: list[str] = []
        tracker = Tracker(f"https://{HOST}:{port}", storage=tmp_path, **options(lines))
        told_of_two_rungs(tracker, tmp_path)
        tracker.close()
        assert lines == []
    finally:
        nginx.terminate()
        nginx.wait(PATIENCE)


@pytest.mark.parametrize("password", ["wrong", None])
def test_who_it_does_not_know_is_one_line(server, password, tmp_path, monkeypatch):
    for name, value in server.environment("wrong").items():
        monkeypatch.delenv(name, raising=False)
        if password is not None:
            monkeypatch.setenv(name, value)
    with pytest.raises(UserError) as caught:
        Tracker(server.url, storage=tmp_path, **options([]))
    message = str(caught.value)
    assert "\n" not in message
    assert all(name in message for name in NAMES)


def test_it_is_reached_by_its_own_names_on_loopback_alone(server):
    account = ("admin", server.password)
    page = f"{server.url}/api/2.0/mlflow/experiments/search?max_results=1"
    assert requests.get(page, auth=account, timeout=PATIENCE).status_code == 200
    assert requests.get(page, timeout=PATIENCE).status_code == 401
    elsewhere = {"Host": "other.example.org"}  # as a page does that gave its name our address
    assert requests.get(page, auth=account, headers=elsewhere, timeout=PATIENCE).status_code == 403
    foreign = {"Origin": "https://example.org"}
    body = {"name": "forged"}
    create = f"{server.url}/api/2.0/mlflow/experiments/create"
    answer = requests.post(create, auth=account, headers=foreign, json=body, timeout=PATIENCE)
    assert answer.status_code == 403
    assert listening(int(server.url.rpartition(":")[2])) == {"0100007F"}, "127.0.0.1 alone"


def test_its_secrets_are_on_no_command_line_and_in_no_log(server):
    for pid in [server.pid, *below(server.pid, "")]:
        command = Path(f"/proc/{pid}/cmdline").read_text()
        assert not any(secret in command for secret in server.secrets)
    assert holders(server.log.parent, *server.secrets) == []


@pytest.fixture
def ray() -> Iterator[str]:
    """A folder for what Ray writes; pytest's are too long for sockets."""
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:
        yield folder


@pytest.mark.ray
def test_a_search_logs_into_it_and_tells_nobody_the_password(server, tmp_path, ray):
    def launch(password: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, str(QUICK), "", "reptile_omniglot", "--study", "s"]
        words += ["--data", str(tmp_path / "pictures"), "--storage", str(tmp_path / "runs")]
        words += ["--budget", "300s", "--trials", "2", "--cpus-per-trial", str(os.cpu_count())]
        return subprocess.run(
            [*words, "--tracking-uri", server.url],
            env={
                **os.environ,
                **server.environment(password),
                "XDG_CACHE_HOME": str(tmp_path / "cache"),
                "RAY_TMPDIR": ray,
                "COLUMNS": "200",
            },
            capture_output=True,
            text=True,
            check=False,
        )

    write_pictures(tmp_path / "pictures", classes=6)
    refused = launch("not the password")
    assert refused.returncode == CANNOT_BE_MET, refused.stderr
    (line,) = refused.stderr.splitlines()
    assert line.startswith(f"error: The tracking store {server.url} ")
    assert not (tmp_path / "runs" / "s").exists(), "something began"

    done = launch(server.password)
    assert done.returncode == 0, done.stdout + done.stderr
    assert server.password not in done.stdout + done.stderr
    assert holders(tmp_path, server.password) == holders(Path(ray), server.password) == []
    place = load(tmp_path / "runs" / "s" / "result.json").tracking
    assert place is not None
    assert place.uri == server.url
    answer = requests.post(
        f"{server.url}/api/2.0/mlflow/runs/search",
        auth=("admin", server.password),
        json={"experiment_ids": [place.experiment_id]},
        timeout=60,
    )
    assert len(answer.json()["runs"]) >= 2, "the study and a trial at least"
    assert server.password not in answer.text
    assert holders(server.log.parent, server.password) == []
