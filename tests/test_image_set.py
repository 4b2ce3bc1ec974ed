"""The cache of a set: built once, whole or not at all, built again when damaged or stale."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from picture_files import quiet

from trainables.built_once import Report
from trainables.errors import UserError
from trainables.image_set import ImageSet, Pictures, Source, build_image_set, open_image_set


def read_ramp(size: int, _report: Report) -> Pictures:
    """Six pictures of three classes; picture k is of tone 10 k with one pixel of 255."""

    def pixels() -> Iterator[np.ndarray]:
        for k in range(6):
            block = np.full((1, size, size), 10 * k, np.uint8)
            block[0, 0, k] = 255
            yield block

    return Pictures(
        classes=("a", "b", "c"),
        labels=np.array([0, 0, 1, 1, 2, 2]),
        held_out=np.array([False, True] * 3),
        pixels=pixels(),
    )


RAMP = Source(name="ramp", stand_in=False, key={"version": 1}, read=read_ramp)


def build(cache_dir: Path, source: Source = RAMP, report: Report = quiet) -> ImageSet:
    return build_image_set(source, cache_dir=cache_dir, size=16, report=report)


def test_a_set_is_a_read_only_memory_map_with_its_labels(tmp_path: Path) -> None:
    images = build(tmp_path)
    assert isinstance(images.images, np.memmap)
    assert images.images.shape == (6, 1, 16, 16)
    assert images.images.dtype == np.uint8
    assert not images.images.flags.writeable
    assert images.images[:, 0, 5, 5].tolist() == [0, 10, 20, 30, 40, 50]
    assert images.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert images.held_out.tolist() == [False, True] * 3
    assert images.classes == ("a", "b", "c")
    assert len(images.fingerprint) == 16


def test_a_cached_set_is_opened_without_reading_its_source(tmp_path: Path) -> None:
    first = build(tmp_path)

    def never(_size: int, _report: Report) -> Pictures:
        raise AssertionError("the source was read again")

    second = build(tmp_path, replace(RAMP, read=never))
    assert second.path == first.path == open_image_set(first.path).path
    assert second.fingerprint == first.fingerprint


def test_nothing_but_the_set_and_its_lock_stays_behind(tmp_path: Path) -> None:
    images = build(tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [images.path.name, images.path.name + ".lock"]


def test_a_set_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a power cut leaves the name, and pixels that are all 0."""
    done: list[str] = []
    fsync, rename = os.fsync, os.rename

    def settled(handle: int) -> None:
        done.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name)
        fsync(handle)

    def named(old: Path, new: Path) -> None:
        done.append(f"named {old.name}")
        rename(old, new)

    monkeypatch.setattr(os, "fsync", settled)
    monkeypatch.setattr(os, "rename", named)
    build(tmp_path)
    files = {"images.npy", "labels.npy", "held_out.npy", "meta.json"}
    assert set(done[:4]) == files
    assert done[4:] == ["new", "named new", tmp_path.name]


def test_another_key_or_size_is_another_cache(tmp_path: Path) -> None:
    paths = {
        build(tmp_path).path,
        build(tmp_path, replace(RAMP, key={"version": 2})).path,
        build_image_set(RAMP, cache_dir=tmp_path, size=20, report=quiet).path,
    }
    assert len(paths) == 3


def test_the_fingerprint_tells_pixels_and_class_names(tmp_path: Path) -> None:
    def renamed(size: int, report: Report) -> Pictures:
        return replace(read_ramp(size, report), classes=("a", "b", "d"))

    def redrawn(size: int, report: Report) -> Pictures:
        pictures = read_ramp(size, report)
        return replace(pictures, pixels=(block // 2 for block in pictures.pixels))

    prints = {build(tmp_path).fingerprint}
    for version, read in enumerate((renamed, redrawn), start=2):
        changed = replace(RAMP, key={"version": version}, read=read)
        prints.add(build(tmp_path, changed).fingerprint)
    assert len(prints) == 3


def truncate(folder: Path) -> None:
    os.truncate(folder / "images.npy", 300)


def empty(folder: Path) -> None:
    os.truncate(folder / "labels.npy", 0)


def lose(folder: Path) -> None:
    (folder / "meta.json").unlink()


def garble(folder: Path) -> None:
    (folder / "meta.json").write_text("{")


def mislabel(folder: Path) -> None:
    np.save(folder / "labels.npy", np.array([0, 0, 1, 1, 7, 7]))


def age(folder: Path) -> None:
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps({**meta, "format": 0}))


@pytest.mark.parametrize("damage", [truncate, empty, lose, garble, mislabel, age])
def test_a_damaged_cache_is_built_again_and_said(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    images = build(tmp_path)
    damage(images.path)
    with pytest.raises(UserError, match="delete the folder"):
        open_image_set(images.path)
    said: list[str] = []
    again = build(tmp_path, report=said.append)
    assert again.fingerprint == images.fingerprint
    assert "is damaged" in said[0]
    assert open_image_set(images.path).images[5, 0, 5, 5] == 50


def test_a_source_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    def broken(size: int, report: Report) -> Pictures:
        def pixels() -> Iterator[np.ndarray]:
            yield np.zeros((1, size, size), np.uint8)
            raise UserError("the second picture is damaged")

        return replace(read_ramp(size, report), pixels=pixels())

    with pytest.raises(UserError, match="second picture"):
        build(tmp_path, replace(RAMP, read=broken))
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


def test_what_a_killed_process_left_is_cleared_away(tmp_path: Path) -> None:
    images = build(tmp_path / "elsewhere")
    leftover = tmp_path / f".{images.path.name}.abc" / "set"
    leftover.mkdir(parents=True)
    build(tmp_path)
    assert not leftover.parent.exists()


def _build_in_process(cache_dir: str) -> str:
    return build(Path(cache_dir)).fingerprint


def test_processes_that_build_at_once_agree(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    with context.Pool(4) as pool:
        prints = pool.map(_build_in_process, [str(tmp_path)] * 8)
    assert len(set(prints)) == 1
    assert build(tmp_path).fingerprint == prints[0]


def test_blank_pictures_are_mentioned(tmp_path: Path) -> None:
    def blank(size: int, report: Report) -> Pictures:
        return replace(read_ramp(size, report), pixels=[np.zeros((6, size, size), np.uint8)])

    said: list[str] = []
    build(tmp_path, replace(RAMP, read=blank), report=said.append)
    assert any("6 pictures are of one even tone" in line for line in said)


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="folder must be writable") as caught:
        build(tmp_path / "file" / "cache")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [0, 8, 257])
def test_sizes_out_of_range_are_refused(tmp_path: Path, size: int) -> None:
    with pytest.raises(UserError, match="must be 16 to 256"):
        build_image_set(RAMP, cache_dir=tmp_path, size=size, report=quiet)
