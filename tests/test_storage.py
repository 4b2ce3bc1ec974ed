"""What `--storage` may be."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainables.errors import UserError
from tuner import storage
from tuner.storage import parse_storage


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(storage, "user_cache", lambda: tmp_path / "cache")
    return tmp_path / "cache"


def test_a_folder_is_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_storage("runs") == (tmp_path / "runs", None)
    assert not (tmp_path / "runs").exists()


def test_an_address_has_one_folder_of_this_machine(cache: Path) -> None:
    address = "s3://our-bucket/few/shot?region=eu-west-1&endpoint_override=minio:9000&scheme=http"
    folder, found = parse_storage(address)
    assert found == address
    assert folder.parent == cache / "storage"
    assert folder.name.startswith("our-bucket-")
    assert parse_storage(address)[0] == folder != parse_storage("s3://our-bucket/other")[0]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("s3://AKIA123:hush@bucket/runs", "must not hold credentials"),
        ("s3://bucket/runs?access_key=AKIA123&secret_key=hush", "come from the environment"),
        ("s3://bucket/runs?session_token=", "come from the environment"),
        ("s3://bucket/runs#hush", "a fragment"),
        ("ftp://bucket/runs", "s3://bucket/folder or gs://bucket/folder"),
        ("s3:///runs", "s3://bucket/folder or"),
    ],
)
def test_other_addresses_are_refused_and_no_secret_is_repeated(text: str, line: str) -> None:
    with pytest.raises(UserError, match=line) as caught:
        parse_storage(text)
    assert "hush" not in str(caught.value)
    assert "\n" not in str(caught.value)
