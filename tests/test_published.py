"""What nodes copy from the storage is what was put there, or nothing."""

from __future__ import annotations

import json
from pathlib import Path
from unittest.mock import Mock

import pytest

from trainables import published
from trainables.addresses import below
from trainables.errors import UserError
from trainables.published import MANIFEST, at_hand, opened, publish


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "prepared" / "digits-32"
    made.mkdir(parents=True)
    (made / "images.npy").write_bytes(b"pixels" * 1000)
    (made / "meta.json").write_text("{}")
    return made


@pytest.fixture
def store(tmp_path: Path) -> str:
    return (tmp_path / "shared by all").as_uri()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This node's."""
    monkeypatch.setattr(published, "user_cache", lambda: tmp_path / "cache")
    return tmp_path / "cache"


def there(tmp_path: Path, address: str) -> Path:
    return tmp_path / "shared by all" / address.rpartition("/")[2]


def test_a_node_copies_what_was_published_once(folder: Path, store: str, tmp_path: Path) -> None:
    address = publish(folder, store)
    copy = at_hand(address)
    assert copy.is_relative_to(tmp_path / "cache")
    for path in folder.iterdir():
        assert (copy / path.name).read_bytes() == path.read_bytes()
    for path in there(tmp_path, address).iterdir():
        path.unlink()
    assert at_hand(address) == copy  # nobody asks the storage again


def test_the_same_content_is_published_once_and_other_content_beside_it(
    folder: Path, store: str, tmp_path: Path
) -> None:
    first = publish(folder, store)
    written = (there(tmp_path, first) / "images.npy").stat().st_mtime_ns
    assert publish(folder, store) == first
    assert (there(tmp_path, first) / "images.npy").stat().st_mtime_ns == written
    (folder / "meta.json").write_text("[]")
    assert publish(folder, store) != first


def test_a_copy_that_was_cut_is_made_again(folder: Path, store: str) -> None:
    address = publish(folder, store)
    (at_hand(address) / "images.npy").write_bytes(b"pix")
    assert (at_hand(address) / "images.npy").read_bytes() == b"pixels" * 1000


def test_what_has_no_scheme_is_used_where_it_is(folder: Path) -> None:
    assert at_hand(str(folder)) == folder


def test_another_file_under_the_name_is_refused(folder: Path, store: str, tmp_path: Path) -> None:
    address = publish(folder, store)
    (there(tmp_path, address) / "images.npy").write_bytes(b"poison" * 1000)
    with pytest.raises(UserError, match=r"images.npy is not what was published"):
        at_hand(address)


@pytest.mark.parametrize("name", ["../images.npy", "/etc/images.npy", ".images.npy", "a/b"])
def test_names_that_leave_the_folder_are_refused(
    folder: Path, store: str, tmp_path: Path, name: str, cache: Path
) -> None:
    """Even where the address vouches for the list of files."""
    address = publish(folder, store)
    place = there(tmp_path, address)
    manifest = {name: json.loads((place / MANIFEST).read_text())["images.npy"]}
    evil = place.with_name(f"digits-32-{published._digest(manifest)}")
    place.rename(evil)
    (evil / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="Cannot use"):
        at_hand(below(store, evil.name))
    assert not list(cache.rglob("*images.npy"))


def test_a_list_that_the_address_does_not_vouch_for_is_refused(
    folder: Path, store: str, tmp_path: Path
) -> None:
    address = publish(folder, store)
    (there(tmp_path, address) / MANIFEST).write_text("{}")
    with pytest.raises(UserError, match="not the one that was published"):
        at_hand(address)


def test_what_is_gone_is_told_in_one_line(store: str) -> None:
    with pytest.raises(UserError, match="Cannot use file:") as caught:
        at_hand(below(store, "digits-32-0123456789abcdef"))
    assert "\n" not in str(caught.value)


def test_options_stay_at_the_end_of_an_address() -> None:
    assert below("s3://b/runs/?scheme=http", "a", "b") == "s3://b/runs/a/b?scheme=http"
    assert below("s3://b/runs", "a") == "s3://b/runs/a"


@pytest.mark.parametrize(
    ("address", "asked"),
    [
        ("gs://bucket/runs", "gs://bucket/runs?retry_limit_seconds=10"),
        ("gs://b/runs?scheme=http", "gs://b/runs?scheme=http&retry_limit_seconds=10"),
        ("s3://bucket/runs", "s3://bucket/runs"),
    ],
)
def test_googles_client_is_asked_for_seconds(
    address: str, asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would try for a quarter of an hour, also without credentials."""
    opener = Mock(from_uri=lambda uri: ("store", uri))
    monkeypatch.setattr(published, "FileSystem", opener)
    assert opened(address) == ("store", asked)


def test_no_bucket_is_opened_in_another_way() -> None:
    root = Path(published.__file__).parents[1]
    sources = [*root.glob("tuner/*.py"), *root.glob("trainables/*.py")]
    opening = [path.name for path in sources if "from_uri(" in path.read_text(encoding="utf-8")]
    # A node is sent the address that is asked for seconds: nothing of ours may be there.
    assert sorted(opening) == ["premises.py", "published.py"]
