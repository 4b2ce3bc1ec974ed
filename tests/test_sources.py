"""Reading idx files and Omniglot: every layout, and one line for every kind of damage."""

from __future__ import annotations

import gzip
import os
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from picture_files import (
    drawing_png,
    idx_bytes,
    omniglot_files,
    quiet,
    write_mnist,
    write_omniglot,
    write_zip,
)

from trainables.errors import UserError
from trainables.image_set import Pictures
from trainables.sources import FASHION_MNIST, MNIST, OMNIGLOT, Published, read_idx_file


def read(published: Published, root: Path, size: int = 28) -> tuple[Pictures, np.ndarray]:
    pictures = published.source(published.found(root)).read(size, quiet)
    return pictures, np.concatenate(list(pictures.pixels))


@pytest.mark.parametrize("zipped", [True, False])
def test_idx_pictures_come_sorted_by_label_with_the_t10k_part_held_out(
    tmp_path: Path, zipped: bool
) -> None:
    write_mnist(tmp_path / "MNIST/raw", zipped=zipped)
    pictures, pixels = read(MNIST, tmp_path)
    assert pictures.classes == tuple("0123456789")
    assert pictures.labels.tolist() == sorted(list(range(10)) * 11)
    assert pixels[:, 0, 0].tolist() == pictures.labels.tolist()
    assert (pixels[:, 0, 1] == np.where(pictures.held_out, 200, 100)).all()
    assert pictures.held_out.sum() == 50


def test_raw_and_gzipped_idx_files_may_be_mixed(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST/raw"
    write_mnist(raw)
    packed = raw / "train-labels-idx1-ubyte.gz"
    packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
    packed.unlink()
    assert len(read(MNIST, tmp_path)[1]) == 110


def test_fashion_mnist_is_found_where_debian_puts_it(tmp_path: Path) -> None:
    write_mnist(tmp_path / "debian")
    published = replace(FASHION_MNIST, elsewhere=(tmp_path / "debian",))
    assert len(read(published, tmp_path / "root")[1]) == 110
    assert Path("/usr/share/datasets/fashion-mnist") in FASHION_MNIST.elsewhere


@pytest.mark.parametrize("size", [32, 64])
def test_idx_pictures_are_resized(tmp_path: Path, size: int) -> None:
    write_mnist(tmp_path / "MNIST/raw")
    assert read(MNIST, tmp_path, size)[1].shape == (110, size, size)


IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
ZEROS = np.zeros((60, 28, 28))
IDX_DAMAGE = {
    "truncated": (IMAGES, idx_bytes(ZEROS)[:-1], "promises, got 47,039"),
    "too long": (IMAGES, idx_bytes(ZEROS) + b"x", "promises, got more"),
    "empty": (IMAGES, b"", "got nothing"),
    "header cut": (IMAGES, idx_bytes(ZEROS)[:9], "must start with 00000803"),
    "wrong magic": (IMAGES, b"\x89PNG" + bytes(50_000), "got 89504e47"),
    "labels for images": (IMAGES, idx_bytes(np.zeros(60)), "got 00000801"),
    "wrong shape": (IMAGES, idx_bytes(np.zeros((60, 32, 32))), r"shape \(32, 32\)"),
    "absurd count": (IMAGES, bytes([0, 0, 8, 3]) + b"\xff" * 4 + bytes(8), "at most 1,000,000"),
    "wrong count": (LABELS, idx_bytes(np.zeros(59)), "60 in .* and 59 in"),
    "label 10": (LABELS, idx_bytes(np.full(60, 10)), "Labels must be 0 to 9, got 10"),
    "a class of 3": (LABELS, idx_bytes(np.repeat(np.arange(10), [9] + 8 * [6] + [3])), "got 3 of"),
}


@pytest.mark.parametrize(("name", "content", "line"), IDX_DAMAGE.values(), ids=IDX_DAMAGE)
@pytest.mark.parametrize("zipped", [True, False])
def test_idx_damage_is_one_line_naming_the_file(
    tmp_path: Path, name: str, content: bytes, line: str, zipped: bool
) -> None:
    raw = tmp_path / "MNIST/raw"
    write_mnist(raw)
    (raw / f"{name}.gz").unlink()
    file = raw / (f"{name}.gz" if zipped else name)
    file.write_bytes(gzip.compress(content) if zipped else content)
    with pytest.raises(UserError, match=line) as caught:
        read(MNIST, tmp_path)
    assert file.name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("keep", [5, 100, -4])
def test_a_truncated_gzip_file_is_named(tmp_path: Path, keep: int) -> None:
    write_mnist(tmp_path / "MNIST/raw")
    file = tmp_path / "MNIST/raw" / f"{IMAGES}.gz"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(UserError, match=f"whole and readable, got .*{file.name}"):
        read(MNIST, tmp_path)


def test_a_gzip_file_with_a_wrong_checksum_is_named(tmp_path: Path) -> None:
    write_mnist(tmp_path / "MNIST/raw")
    file = tmp_path / "MNIST/raw" / f"{IMAGES}.gz"
    content = bytearray(file.read_bytes())
    content[-8] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=f"CRC check failed|{file.name}"):
        read(MNIST, tmp_path)


def test_a_small_published_set_is_mentioned(tmp_path: Path) -> None:
    write_mnist(tmp_path / "MNIST/raw")
    said: list[str] = []
    MNIST.source(MNIST.found(tmp_path)).read(28, said.append)
    assert "holds 110 pictures, the published set 70,000" in said[0]


def test_omniglot_is_read_from_zips_light_on_dark(tmp_path: Path) -> None:
    write_omniglot(tmp_path)
    pictures, pixels = read(OMNIGLOT, tmp_path, 32)
    assert len(pictures.classes) == 18
    assert pictures.classes[0] == "background/Alphabet_0/character01"
    assert pictures.classes[-1] == "evaluation/Alphabet_2/character02"
    assert np.bincount(pictures.labels).tolist() == [8] * 18
    assert not pictures.held_out.any()
    assert np.median(pixels) == 0
    assert pixels.max() > 200


def test_omniglot_is_the_same_from_zips_folders_or_one_of_each(tmp_path: Path) -> None:
    write_omniglot(tmp_path / "zips")
    for root, kinds in (("folders", ("folder", "folder")), ("mixed", ("zip", "folder"))):
        for kind, stem in zip(kinds, OMNIGLOT.stems, strict=True):
            source = tmp_path / "zips/omniglot-py" / f"{stem}.zip"
            target = tmp_path / root / "omniglot-py"
            target.mkdir(parents=True, exist_ok=True)
            if kind == "zip":
                (target / source.name).write_bytes(source.read_bytes())
            else:
                with zipfile.ZipFile(source) as archive:
                    archive.extractall(target)
    (tmp_path / "folders/omniglot-py/images_background/.DS_Store").write_bytes(b"x")
    expected, pixels = read(OMNIGLOT, tmp_path / "zips", 32)
    for root in ("folders", "mixed"):
        pictures, same = read(OMNIGLOT, tmp_path / root, 32)
        assert pictures.classes == expected.classes
        np.testing.assert_array_equal(same, pixels)


def test_a_truncated_zip_is_named(tmp_path: Path) -> None:
    write_omniglot(tmp_path)
    path = tmp_path / "omniglot-py/images_background.zip"
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(UserError, match=r"images_background\.zip") as caught:
        read(OMNIGLOT, tmp_path)
    assert "\n" not in str(caught.value)


DRAWING = "images_background/Alphabet_0/character01/0001_01.png"
OMNIGLOT_DAMAGE = {
    "wrong shape": ({DRAWING: drawing_png(0, side=104)}, "must be 105x105 pixels, got 104x104"),
    "no picture": ({DRAWING: b"hello"}, "whole and readable"),
    "half a picture": ({DRAWING: drawing_png(0)[:60]}, "whole and readable"),
    "a bomb": ({DRAWING: bytes(2 << 20)}, "larger than 1,048,576 bytes"),
}


@pytest.mark.parametrize(("files", "line"), OMNIGLOT_DAMAGE.values(), ids=OMNIGLOT_DAMAGE)
@pytest.mark.parametrize("extracted", [False, True])
def test_a_bad_drawing_is_one_line_naming_it(
    tmp_path: Path, files: dict[str, bytes], line: str, extracted: bool
) -> None:
    write_omniglot(tmp_path)
    path = tmp_path / "omniglot-py/images_background.zip"
    write_zip(path, {**omniglot_files("images_background"), **files})
    if extracted:
        with zipfile.ZipFile(path) as archive:
            archive.extractall(path.parent)
        path.unlink()
    with pytest.raises(UserError, match=line) as caught:
        read(OMNIGLOT, tmp_path)
    assert "character01/0001_01.png" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_drawing_with_a_wrong_checksum_is_named(tmp_path: Path) -> None:
    write_omniglot(tmp_path)
    path = tmp_path / "omniglot-py/images_background.zip"
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 8] ^= 255  # within the first stored picture
    path.write_bytes(content)
    with pytest.raises(UserError, match="Bad CRC-32"):
        read(OMNIGLOT, tmp_path)


def test_too_few_drawings_or_characters_are_named(tmp_path: Path) -> None:
    write_omniglot(tmp_path)
    path = tmp_path / "omniglot-py/images_background.zip"
    write_zip(path, omniglot_files("images_background", drawings=7))
    with pytest.raises(UserError, match="at least 8 drawings, got 7 of 'background/Alphabet_0"):
        read(OMNIGLOT, tmp_path)
    write_zip(path, {"images_background/README.txt": b"nothing"})
    with pytest.raises(UserError, match=r"got 0 character\(s\) in .*images_background.zip"):
        read(OMNIGLOT, tmp_path)


def test_the_key_changes_with_a_file_and_with_a_file_in_a_folder(tmp_path: Path) -> None:
    write_omniglot(tmp_path)
    path = tmp_path / "omniglot-py/images_background.zip"
    keys = [OMNIGLOT.source(OMNIGLOT.found(tmp_path)).key]
    os.utime(path, (1, 1))
    keys.append(OMNIGLOT.source(OMNIGLOT.found(tmp_path)).key)
    with zipfile.ZipFile(path) as archive:
        archive.extractall(path.parent)
    path.unlink()
    keys.append(OMNIGLOT.source(OMNIGLOT.found(tmp_path)).key)
    (path.parent / DRAWING).write_bytes(drawing_png(3))
    keys.append(OMNIGLOT.source(OMNIGLOT.found(tmp_path)).key)
    assert all(a != b for i, a in enumerate(keys) for b in keys[:i])


@pytest.mark.parametrize(
    "member",
    [
        "images_background/../escaped/0001_01.png",
        "/images_background/../escaped/0001_01.png",
        "images_background/Alphabet_0/\x1b]0;owned\x07/0001_01.png",
        "images_background/Alphabet_0/two\nlines/0001_01.png",
    ],
)
def test_an_archive_with_names_that_lead_out_or_command_a_terminal_is_refused(
    tmp_path: Path, member: str
) -> None:
    write_omniglot(tmp_path)
    path = tmp_path / "omniglot-py/images_background.zip"
    write_zip(path, {**omniglot_files("images_background"), member: drawing_png(0)})
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match="must be printable UTF-8 without") as caught:
        read(OMNIGLOT, tmp_path)
    assert str(caught.value).isprintable()
    assert sorted(tmp_path.rglob("*")) == before


def test_a_zip_bomb_is_refused_before_it_is_inflated(tmp_path: Path) -> None:
    write_omniglot(tmp_path)
    path = tmp_path / "omniglot-py/images_background.zip"
    write_zip(path, omniglot_files("images_background"))
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(DRAWING.replace("_01.png", "_99.png"), bytes(64 << 20))
    assert path.stat().st_size < 1 << 20
    with pytest.raises(UserError, match="larger than 1,048,576 bytes"):
        read(OMNIGLOT, tmp_path)


def test_more_drawings_than_any_omniglot_has_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_omniglot(tmp_path)
    monkeypatch.setattr("trainables.sources.OMNIGLOT_MOST_DRAWINGS", 50)
    with pytest.raises(UserError, match=r"at most 50 drawings, got 96"):
        read(OMNIGLOT, tmp_path)


def test_links_out_of_a_sets_folder_are_refused_and_the_folder_may_be_one(tmp_path: Path) -> None:
    write_omniglot(tmp_path / "disk")
    root = tmp_path / "root"
    root.mkdir()
    (root / "omniglot-py").symlink_to(tmp_path / "disk/omniglot-py")
    assert len(OMNIGLOT.found(root)) == 2
    folder = tmp_path / "disk/omniglot-py"
    secret = tmp_path / "secret.zip"
    (folder / "images_background.zip").rename(secret)
    (folder / "images_background.zip").symlink_to(secret)
    with pytest.raises(UserError, match=r"must lie inside its folder .* got the link"):
        OMNIGLOT.found(root)
    (folder / "images_background.zip").unlink()
    with zipfile.ZipFile(secret) as archive:
        archive.extractall(folder)
    assert len(read(OMNIGLOT, root)[1])
    (folder / "images_background/Alphabet_0/character01").rename(tmp_path / "character")
    (folder / "images_background/Alphabet_0/character01").symlink_to(tmp_path / "character")
    with pytest.raises(UserError, match="character01"):
        OMNIGLOT.source(OMNIGLOT.found(root))


@pytest.mark.parametrize("count", [2**32 - 1, 1_000_001])
def test_an_idx_file_that_declares_more_than_there_can_be_takes_no_memory(
    tmp_path: Path, count: int
) -> None:
    path = tmp_path / "train-images-idx3-ubyte"
    sizes = b"".join(n.to_bytes(4, "big") for n in (count, 28, 28))
    path.write_bytes(bytes([0, 0, 8, 3]) + sizes)
    with pytest.raises(UserError, match=f"at most 1,000,000, got {count:,} of shape"):
        read_idx_file(path, shape=(28, 28))


def test_a_gzip_bomb_is_read_no_further_than_its_header_says(tmp_path: Path) -> None:
    path = tmp_path / "train-labels-idx1-ubyte.gz"
    content = bytes([0, 0, 8, 1]) + (8).to_bytes(4, "big") + bytes(64 << 20)
    path.write_bytes(gzip.compress(content))
    with pytest.raises(UserError, match="the 8 bytes that the header promises, got more"):
        read_idx_file(path, shape=())
