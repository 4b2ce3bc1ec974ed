"""Fetching a published set through torchvision: whole or not at all, and never hanging."""

from __future__ import annotations

import os
import shutil
import socket
import tarfile
import tempfile
import threading
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPException
from pathlib import Path

from filelock import FileLock

from trainables.built_once import Report
from trainables.errors import one_line

# Without a network the answer must come within seconds; name resolution has no time limit of
# its own, so the first contact is made in a thread that can be left behind.
SECONDS_TO_ANSWER = 10.0
SECONDS_OF_SILENCE = 20.0  # in the middle of a file, before it counts as lost
LARGEST_FILE = 1 << 28  # bytes of what is taken out of an archive; CIFAR-100's is 155 million
PREFIX = ".download-"  # of folders of files that are not whole yet


class DownloadError(RuntimeError):
    """The set could not be fetched; the text says why, in one line."""


def download(name: str, stems: Sequence[str], folder: Path, *, report: Report) -> None:
    """Fetch the files of a set into `folder`, under a temporary name until all are there.

    Each file's MD5 is checked by torchvision, which also shows a progress bar.

    Args:
        name: "omniglot", "mnist", "fashion_mnist" or "cifar100".
        stems: file names without ".gz" or ".zip", or those in the archive.
        folder: where they belong; created if absent.
        report: receives a line before the first file.
    Raises:
        DownloadError: the network or the folder does not allow it.
    """
    mirrors, checksums = _published(name, stems)
    reasons = []
    for mirror in mirrors:
        if not _answers(mirror + next(iter(checksums))):
            reasons.append(f"{mirror} does not answer")
            continue
        report(f"{name}: downloading {len(checksums)} files from {mirror} into {folder}")
        try:
            _fetch(mirror, checksums, folder, stems)
        except (OSError, RuntimeError, HTTPException, tarfile.TarError) as error:
            reasons.append(f"{mirror}: {one_line(error)}")
        else:
            return
    raise DownloadError("; ".join(reasons))


def _fetch(mirror: str, checksums: Mapping[str, str], folder: Path, stems: Sequence[str]) -> None:
    """Fetch all files beside their destination, then move them there; one process at a time."""
    # takes seconds, and is seldom needed
    from torchvision.datasets.utils import download_url

    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        stack.enter_context(FileLock(folder.with_name(folder.name + ".lock")))
        for leftover in folder.glob(f"{PREFIX}*"):  # of a process that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        work = Path(tempfile.mkdtemp(prefix=PREFIX, dir=folder))
        stack.callback(shutil.rmtree, work, ignore_errors=True)
        with _network_timeout(SECONDS_OF_SILENCE):
            for file, md5 in checksums.items():
                download_url(mirror + file, str(work), filename=file, md5=md5)
        for file in checksums:
            if file.endswith(".tar.gz"):
                _unpack(work / file, stems, work, below=folder.name)
                for stem in stems:
                    os.replace(work / stem, folder / stem)
            else:
                os.replace(work / file, folder / file)


def _unpack(archive: Path, stems: Sequence[str], folder: Path, *, below: str) -> None:
    """Take the files `below`/`stems` out of a tar archive into `folder`, and nothing else.

    Raises:
        OSError: one of them is absent, no file but a link or a device, or far too large.
        TarError: it is no tar archive.
    """
    with tarfile.open(archive) as tar:
        for stem in stems:
            try:
                member = tar.getmember(f"{below}/{stem}")
            except KeyError as error:
                raise FileNotFoundError(f"{archive.name} holds no {below}/{stem}") from error
            content = tar.extractfile(member) if member.isreg() else None
            if content is None or member.size > LARGEST_FILE:
                raise OSError(f"{stem} in {archive.name} is no file of at most {LARGEST_FILE:,} B")
            with content, (folder / stem).open("wb") as whole:
                shutil.copyfileobj(content, whole)


def _published(name: str, stems: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Return the mirrors, each ending in "/", and file -> MD5, as torchvision knows them."""
    from torchvision.datasets import CIFAR100, MNIST, FashionMNIST, Omniglot

    if name == "cifar100":
        return [CIFAR100.url.removesuffix(CIFAR100.filename)], {CIFAR100.filename: CIFAR100.tgz_md5}
    if name == "omniglot":
        mirrors = [Omniglot.download_url_prefix + "/"]
        checksums = {f"{stem}.zip": md5 for stem, md5 in Omniglot.zips_md5.items()}
    else:
        published = {"mnist": MNIST, "fashion_mnist": FashionMNIST}[name]
        mirrors, checksums = list(published.mirrors), dict(published.resources)
    return mirrors, {file: md5 for file, md5 in checksums.items() if Path(file).stem in stems}


def _answers(url: str) -> bool:
    """Whether the server offers the file within `SECONDS_TO_ANSWER`."""
    answered = threading.Event()

    def ask() -> None:
        # The addresses are torchvision's own, so no scheme can be smuggled in (S310).
        request = urllib.request.Request(url, method="HEAD")  # noqa: S310
        with (
            suppress(OSError, HTTPException),
            urllib.request.urlopen(request, timeout=SECONDS_TO_ANSWER),  # noqa: S310  # nosec B310
        ):
            answered.set()

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(SECONDS_TO_ANSWER)
    return answered.is_set()


@contextmanager
def _network_timeout(seconds: float) -> Iterator[None]:
    """Give torchvision's connections a time limit, which it has no argument for."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
