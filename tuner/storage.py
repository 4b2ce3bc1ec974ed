"""`--storage`: a folder, or an address in a bucket with a folder of this machine to work in."""

from __future__ import annotations

import errno
import hashlib
import re
import tempfile
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from trainables.addresses import is_address
from trainables.datasets import user_cache
from trainables.errors import UserError

SCHEMES = ("s3", "gs")
OPTIONS = ("region", "scheme", "endpoint_override")  # of an address; none that names a secret


def parse_storage(text: str) -> tuple[Path, str | None]:
    """The folder to work in, absolute, and the address that it is a mirror of, if any.

    Raises:
        UserError: the folder cannot be written, or it is no address of a bucket, or credentials
            are in it.
    """
    address = _checked(text) if is_address(text) else None
    folder = Path(text).absolute() if address is None else _mirror(address)
    _require_writable(folder)
    return folder, address


def _checked(text: str) -> str:
    parts = urlsplit(text)
    if "@" in parts.netloc:
        raise UserError(
            "--storage must not hold credentials: give them in the environment "
            "(AWS_ACCESS_KEY_ID, GOOGLE_APPLICATION_CREDENTIALS) or in the cloud's own files, and "
            "the address without them."
        )
    if parts.scheme not in SCHEMES or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", parts.netloc):
        raise UserError(
            "--storage must be a folder, or an address such as s3://bucket/folder or "
            f"gs://bucket/folder, got {text!r}."
        )
    unknown = [name for name, _ in parse_qsl(parts.query, keep_blank_values=True)]
    unknown = [name for name in unknown if name not in OPTIONS]
    if unknown or parts.fragment:
        raise UserError(
            f"Options of --storage are {', '.join(OPTIONS)}, and credentials come from the "
            f"environment; got {', '.join(unknown) or 'a fragment'}."
        )
    return text


def _mirror(address: str) -> Path:
    """One an address, wherever a command is typed."""
    bucket = urlsplit(address).netloc
    digest = hashlib.sha256(address.encode()).hexdigest()[:16]
    return user_cache() / "storage" / f"{bucket}-{digest}"


def _require_writable(folder: Path) -> None:
    """Refuse a folder that cannot be written or made, without making it.

    A full disk is another matter, for which the study has words.
    """
    place = folder
    try:
        while not place.exists():
            place = place.parent
        with tempfile.TemporaryDirectory(dir=place, prefix=".few-shot-tuner-"):
            pass
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return
        raise UserError(
            f"--storage must be a folder that can be written, and {str(place)!r} is not "
            f"({error.strerror}); name another."
        ) from error
