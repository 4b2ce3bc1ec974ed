"""Addresses of storage that is no folder of this machine: s3://bucket/folder?region=..."""

from __future__ import annotations

RETRY_SECONDS = 10  # about as long as an S3 is asked that does not answer


def is_address(place: str) -> bool:
    """Whether it is one, and no path."""
    return "://" in place


def below(address: str, *parts: str) -> str:
    """A place in a folder; options of an address, which stand at its end, stay there."""
    place, mark, options = address.partition("?")
    return "/".join([place.rstrip("/"), *parts]) + mark + options


def impatient(address: str) -> str:
    """The same place, asked for seconds: Google's client tries for a quarter of an hour, also
    where nobody has credentials."""
    if not address.startswith("gs://"):
        return address
    return f"{address}{'&' if '?' in address else '?'}retry_limit_seconds={RETRY_SECONDS}"
