"""Addresses of storage that is no folder of this machine: s3://bucket/folder?region=..."""

from __future__ import annotations


def is_address(place: str) -> bool:
    """Whether it is one, and no path."""
    return "://" in place


def below(address: str, *parts: str) -> str:
    """A place in a folder; options of an address, which stand at its end, stay there."""
    place, mark, options = address.partition("?")
    return "/".join([place.rstrip("/"), *parts]) + mark + options
