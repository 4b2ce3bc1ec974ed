"""Fetching a set: from a server in the test, atomically; fast failure without a network."""

from __future__ import annotations

import gzip
import hashlib
import io
import socket
import tarfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torchvision.datasets.utils  # noqa: F401  # takes seconds: here, no test's time runs
from filelock import FileLock
from picture_files import quiet

from trainables import download as module
from trainables.download import DownloadError, download

FILES = {"a.gz": gzip.compress(b"first", mtime=0), "b.gz": gzip.compress(b"second", mtime=0)}


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[str]:
    """Serve FILES and return the address, ending in "/"."""
    served = tmp_path / "served"
    served.mkdir()
    for name, content in FILES.items():
        (served / name).write_bytes(content)
    handler = partial(QuietHandler, directory=str(served))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def publish(monkeypatch: pytest.MonkeyPatch, mirrors: list[str], **md5: str) -> None:
    checksums = {
        name: md5.get(name[0], hashlib.md5(content, usedforsecurity=False).hexdigest())
        for name, content in FILES.items()
    }
    monkeypatch.setattr(module, "_published", lambda _name, _stems: (mirrors, checksums))


@pytest.fixture
def dead_mirror() -> Iterator[str]:
    """Accept connections and never answer."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/"


def test_files_arrive_whole_and_nothing_else_stays(
    tmp_path: Path, mirror: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(monkeypatch, [mirror])
    killed = tmp_path / "MNIST/raw/.download-killed"
    killed.mkdir(parents=True)
    (killed / "a.gz").write_bytes(b"half")
    said: list[str] = []
    download("mnist", ["a", "b"], tmp_path / "MNIST/raw", report=said.append)
    found = {path.name: path.read_bytes() for path in (tmp_path / "MNIST/raw").iterdir()}
    assert found == FILES
    assert "downloading 2 files" in said[0]


def test_the_files_of_another_process_that_is_not_done_are_left_alone(
    tmp_path: Path, mirror: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(monkeypatch, [mirror])
    (tmp_path / "raw" / ".download-other").mkdir(parents=True)
    thread = threading.Thread(
        target=download, args=("mnist", ["a"], tmp_path / "raw"), kwargs={"report": quiet}
    )
    with FileLock(tmp_path / "raw.lock"):
        thread.start()
        thread.join(1)
        assert [path.name for path in (tmp_path / "raw").iterdir()] == [".download-other"]
    thread.join()
    assert {path.name for path in (tmp_path / "raw").iterdir()} == set(FILES)


def test_a_wrong_checksum_leaves_nothing(
    tmp_path: Path, mirror: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(monkeypatch, [mirror], b="0" * 32)
    with pytest.raises(DownloadError, match="corrupted"):
        download("mnist", ["a", "b"], tmp_path / "raw", report=quiet)
    assert list((tmp_path / "raw").iterdir()) == []


def test_the_next_mirror_is_tried(
    tmp_path: Path, mirror: str, dead_mirror: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SECONDS_TO_ANSWER", 0.2)
    publish(monkeypatch, [dead_mirror, mirror])
    download("mnist", ["a", "b"], tmp_path, report=quiet)
    assert (tmp_path / "a.gz").exists()


def test_silence_is_given_up_soon(
    tmp_path: Path, dead_mirror: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SECONDS_TO_ANSWER", 0.2)
    publish(monkeypatch, [dead_mirror])
    started = time.monotonic()
    with pytest.raises(DownloadError, match="does not answer"):
        download("mnist", ["a", "b"], tmp_path / "raw", report=quiet)
    assert time.monotonic() - started < 5
    assert not (tmp_path / "raw").exists()


def test_a_name_that_takes_for_ever_to_resolve_is_given_up_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()

    def never(*_args: object, **_kwargs: object) -> None:
        released.wait(10)
        raise socket.gaierror("late")

    monkeypatch.setattr(module, "SECONDS_TO_ANSWER", 0.2)
    monkeypatch.setattr(socket, "getaddrinfo", never)
    publish(monkeypatch, ["http://nowhere.invalid/"])
    started = time.monotonic()
    with pytest.raises(DownloadError, match="does not answer"):
        download("mnist", ["a", "b"], tmp_path, report=quiet)
    assert time.monotonic() - started < 5
    released.set()


def test_a_folder_that_cannot_be_written_is_a_failed_download(
    tmp_path: Path, mirror: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(monkeypatch, [mirror])
    (tmp_path / "file").write_text("")
    with pytest.raises(DownloadError, match="file"):
        download("mnist", ["a"], tmp_path / "file" / "raw", report=quiet)


@pytest.mark.parametrize(
    ("name", "stem", "count"),
    [
        ("omniglot", "images_background", 2),
        ("mnist", "train-images-idx3-ubyte", 4),
        ("fashion_mnist", "t10k-labels-idx1-ubyte", 4),
    ],
)
def test_torchvision_knows_where_the_sets_are(name: str, stem: str, count: int) -> None:
    from trainables.sources import PUBLISHED

    mirrors, checksums = module._published(name, PUBLISHED[name].stems)
    assert len(checksums) == count
    assert all(mirror.startswith("http") and mirror.endswith("/") for mirror in mirrors)
    assert len(module._published(name, [stem])[1]) == 1


def archive(path: Path, *members: tarfile.TarInfo, content: bytes = b"data") -> Path:
    """A tar.gz of members; those that are files hold `content`."""
    with tarfile.open(path, "w:gz") as tar:
        for member in members:
            member.size = len(content) if member.isreg() else 0
            tar.addfile(member, io.BytesIO(content))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, linkname: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, linkname
    return made


def test_only_the_files_of_the_set_are_taken_out_of_an_archive(tmp_path: Path) -> None:
    packed = archive(
        tmp_path / "set.tar.gz",
        member("set/train"),
        member("../escaped"),
        member("/tmp/few-shot-tuner-escaped"),
        member("set/link", tarfile.SYMTYPE, "/etc"),
        member("set/link/escaped"),
    )
    (tmp_path / "work").mkdir()
    module._unpack(packed, ["train"], tmp_path / "work", below="set")
    assert [p.name for p in tmp_path.rglob("*")] == ["set.tar.gz", "work", "train"]
    assert (tmp_path / "work/train").read_bytes() == b"data"
    assert not Path("/tmp/few-shot-tuner-escaped").exists()


@pytest.mark.parametrize(
    ("hostile", "words"),
    [
        (member("set/train", tarfile.SYMTYPE, "/etc/passwd"), "is no file"),
        (member("set/train", tarfile.LNKTYPE, "../../secret"), "is no file"),
        (member("set/train", tarfile.FIFOTYPE), "is no file"),
        (member("../set/train"), "holds no set/train"),
        (member("/set/train"), "holds no set/train"),
    ],
)
def test_a_link_in_the_place_of_a_file_is_not_followed(
    tmp_path: Path, hostile: tarfile.TarInfo, words: str
) -> None:
    packed = archive(tmp_path / "set.tar.gz", hostile)
    with pytest.raises(OSError, match=words):
        module._unpack(packed, ["train"], tmp_path, below="set")
    assert [path.name for path in tmp_path.iterdir()] == ["set.tar.gz"]


def test_an_archive_of_a_huge_file_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LARGEST_FILE", 1 << 20)
    packed = archive(tmp_path / "set.tar.gz", member("set/train"), content=bytes(2 << 20))
    assert packed.stat().st_size < 10_000
    with pytest.raises(OSError, match="at most 1,048,576 B"):
        module._unpack(packed, ["train"], tmp_path, below="set")
