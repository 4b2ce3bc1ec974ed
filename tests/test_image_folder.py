"""A user's folder of class folders: what is read, and what is refused in one line."""

from __future__ import annotations

import os
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from picture_files import quiet, write_pictures
from PIL import Image, PngImagePlugin

from trainables import image_folder
from trainables.datasets import load_folder
from trainables.errors import UserError
from trainables.image_folder import border_tone, folder_source, grey, read_picture, squared


def read_grey(file: Path, size: int) -> np.ndarray:
    return grey(read_picture(file, size))


def read(root: Path, size: int = 32) -> tuple[list[int], np.ndarray]:
    pictures = folder_source(root).read(size, quiet)
    return pictures.labels.tolist(), np.concatenate(list(pictures.pixels))


def save(pixels: object, path: Path, mode: str | None = None, **options: object) -> Path:
    image = Image.fromarray(np.asarray(pixels, np.uint8))
    (image if mode is None else image.convert(mode)).save(path, **options)
    return path


@pytest.mark.parametrize(("paper", "ink"), [(255, 0), (0, 255)])
def test_ink_is_light_on_dark_whatever_the_polarity(tmp_path: Path, paper: int, ink: int) -> None:
    write_pictures(tmp_path, paper=paper, ink=ink)
    labels, pixels = read(tmp_path)
    assert labels == [0] * 8 + [1] * 8 + [2] * 8
    assert np.median(pixels) == 0
    assert pixels.max() == 255


def test_inversion_is_said(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    said: list[str] = []
    folder_source(tmp_path).read(32, said.append)
    assert "inverted" in said[0]


def test_polarity_is_decided_for_the_set_not_for_a_picture(tmp_path: Path) -> None:
    write_pictures(tmp_path, paper=0, ink=255)
    save(np.full((20, 20), 250), tmp_path / "class_0" / "0.png")
    assert read(tmp_path)[1][0].min() == 250


def test_classes_and_pictures_come_in_order_of_their_names(tmp_path: Path) -> None:
    write_pictures(tmp_path, paper=0, ink=255)
    source = folder_source(tmp_path)
    assert source.name == tmp_path.name
    assert not source.stand_in
    assert source.read(32, quiet).classes == ("class_0", "class_1", "class_2")


def test_hidden_files_other_files_and_deeper_folders_are_left_out(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    before = len(read(tmp_path)[0])
    (tmp_path / ".git").mkdir()
    (tmp_path / "README.txt").write_text("mine")
    (tmp_path / "class_0" / ".hidden.png").write_text("no picture")
    (tmp_path / "class_0" / "notes.txt").write_text("no picture")
    shutil.copytree(tmp_path / "class_1", tmp_path / "class_0" / "deeper.png")
    assert len(read(tmp_path)[0]) == before


def test_files_that_are_not_read_are_counted_in_one_line(tmp_path: Path) -> None:
    write_pictures(tmp_path, paper=0, ink=255)
    for name in ("a.heic", "b.HEIC", "c.ppm", os.fsdecode(b"d.\xe9"), ".hidden.heic"):
        (tmp_path / "class_1" / name).write_bytes(b"")
    said: list[str] = []
    folder_source(tmp_path).read(32, said.append)
    assert len(said) == 1
    assert "4 file(s) left out (2 '.heic', 1 '.ppm', 1 '.\\udce9'): read are .bmp" in said[0]


@pytest.mark.parametrize("suffix", sorted(image_folder.SUFFIXES))
def test_every_kind_of_picture_is_read(tmp_path: Path, suffix: str) -> None:
    pixels = np.zeros((20, 20), np.uint8)
    pixels[5:15, 5:15] = 255
    picture = read_grey(save(pixels, tmp_path / f"a{suffix.upper()}"), 32)
    assert picture.shape == (20, 20)
    assert picture[10, 10] > 240
    assert picture[1, 1] < 15


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I"])
def test_every_mode_becomes_grey(tmp_path: Path, mode: str) -> None:
    pixels = np.zeros((20, 20), np.uint8)
    pixels[5:15, 5:15] = 255
    path = tmp_path / "a.tif" if mode == "I" else tmp_path / "a.png"
    if mode == "I;16":
        Image.fromarray(pixels.astype(np.uint16) * 257).save(path)
    else:
        save(pixels, path, mode)
    picture = read_grey(path, 32)
    assert picture[10, 10] == 255
    assert picture[1, 1] == 0


def test_transparent_parts_are_white_paper(tmp_path: Path) -> None:
    pixels = np.zeros((20, 20, 4), np.uint8)
    pixels[5:15, 5:15, 3] = 255  # opaque black in the middle
    picture = read_grey(save(pixels, tmp_path / "a.png"), 32)
    assert picture[1, 1] == 255
    assert picture[10, 10] == 0


def test_twelve_bits_in_sixteen_are_as_light_as_eight(tmp_path: Path) -> None:
    write_pictures(tmp_path, paper=0, ink=250)
    expected = read(tmp_path)[1]
    for file in tmp_path.glob("*/*.png"):
        with Image.open(file) as image:
            tones = np.asarray(image, np.uint16) * 16  # at most 4,000 of 4,095
        Image.fromarray(tones // (2 if file.stem == "3" else 1)).save(file)  # one is darker
    pixels = read(tmp_path)[1]
    dark = np.arange(24) % 8 == 3
    np.testing.assert_allclose(pixels[~dark], expected[~dark], atol=2)
    np.testing.assert_allclose(pixels[dark], expected[dark] / 2, atol=2)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
@pytest.mark.parametrize("tone", [0, 128, 255])
def test_ink_of_one_tone_on_nothing_is_black_on_white(tmp_path: Path, mode: str, tone: int) -> None:
    pixels = np.full((20, 20, 4), tone, np.uint8)
    pixels[..., 3] = 0
    pixels[5:15, 5:15, 3] = 200
    picture = read_grey(save(pixels, tmp_path / "a.png", mode), 32)
    assert picture[1, 1] == 255
    assert picture[10, 10] == 55  # what 200 of 255 leave of the paper


def test_coloured_ink_on_nothing_keeps_its_colour(tmp_path: Path) -> None:
    pixels = np.zeros((20, 20, 4), np.uint8)
    pixels[5:15, 5:15] = (250, 10, 10, 255)
    picture = read_picture(save(pixels, tmp_path / "a.png"), 32)
    assert picture[10, 10].tolist() == [250, 10, 10]
    assert picture[1, 1].tolist() == [255, 255, 255]


def test_a_photograph_stands_upright(tmp_path: Path) -> None:
    pixels = np.zeros((40, 20), np.uint8)
    pixels[:20] = 255  # light at the top
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side: turn by 90 degrees clockwise
    picture = read_grey(save(pixels, tmp_path / "a.png", exif=exif), 32)
    assert picture.shape == (20, 40)
    assert picture[10, 35] == 255
    assert picture[10, 5] == 0


def test_the_first_frame_of_an_animation_counts(tmp_path: Path) -> None:
    frames = [Image.new("L", (20, 20), tone) for tone in (200, 50)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert read_grey(tmp_path / "a.gif", 32)[10, 10] == 200


def test_padding_keeps_proportions_and_takes_the_borders_tone() -> None:
    picture = np.full((10, 40), 30, np.uint8)
    picture[2:8, 5:35] = 200
    square = squared(picture, 20)
    assert square.shape == (20, 20)
    assert (square[:7] == 30).all()  # 40x10 becomes 20x5: rows 7 to 11
    assert (square[13:] == 30).all()
    assert square[9, 10] == 200
    assert squared(np.zeros((1, 5000), np.uint8), 32).shape == (32, 32)


def test_the_border_tone_is_the_median_of_the_outermost_pixels() -> None:
    # Borders of a 3x3: rows (1,2,3), (7,8,9), columns (1,4,7), (3,6,9) -> median of 12 is 5.
    assert border_tone(np.arange(1, 10, dtype=np.uint8).reshape(3, 3)) == 5


def refused(root: Path, *parts: str) -> None:
    with pytest.raises(UserError) as caught:
        read(root)
    line = str(caught.value)
    assert "\n" not in line
    for part in parts:
        assert part in line


def test_no_folder_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "absent", "must be a folder", "absent'", "is absent")
    (tmp_path / "file.png").write_text("")
    refused(tmp_path / "file.png", "must be a folder", "is a file")


def test_fewer_than_two_classes_are_refused(tmp_path: Path) -> None:
    refused(tmp_path, "at least 2 class folders", "got none")
    write_pictures(tmp_path, classes=1)
    refused(tmp_path, "at least 2 class folders", "only 'class_0'")


def test_a_class_with_too_few_pictures_is_refused(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    (tmp_path / "class_1" / "0.png").unlink()
    refused(tmp_path, "at least 8 pictures", "got 7", "class_1")


def test_a_picture_that_is_no_picture_is_named(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    (tmp_path / "class_1" / "3.png").write_text("hello")
    refused(tmp_path, "whole PNG", "class_1/3.png")


def test_a_truncated_picture_is_named(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    noise = np.random.default_rng(0).integers(0, 255, (64, 64))
    path = save(noise, tmp_path / "class_2" / "7.png")
    os.truncate(path, 2000)
    refused(tmp_path, "whole PNG", "class_2/7.png")


def test_a_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pictures(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # the pictures have 1,200
    refused(tmp_path, "class_0/0.png", "decompression bomb")


def huge_png(side: int) -> bytes:
    """The beginning of a PNG that claims to be `side` pixels wide and high; a bomb would go on."""
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    body = b"IDAT" + zlib.compress(bytes(1 << 20))
    chunks = [
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in (header, body)
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("side", [60_000, 12_000])  # an error and a warning of PIL's own
def test_a_small_file_of_a_huge_picture_is_refused_unread(tmp_path: Path, side: int) -> None:
    write_pictures(tmp_path)
    (tmp_path / "class_0" / "0.png").write_bytes(huge_png(side))
    refused(tmp_path, "class_0/0.png", f"({side * side} pixels)", "decompression bomb")


@pytest.mark.parametrize("name", ["a\nb", "\x1b[31mred", "left\u202eright", "bell\x07"])
def test_a_class_that_would_command_a_terminal_is_refused(tmp_path: Path, name: str) -> None:
    write_pictures(tmp_path)
    (tmp_path / "class_1").rename(tmp_path / name)
    refused(tmp_path, "must be printable UTF-8", repr(name))


def test_a_link_to_what_is_no_file_is_left_out(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    os.mkfifo(tmp_path / "pipe")  # reading it would wait for ever
    (tmp_path / "class_0" / "pipe.png").symlink_to(tmp_path / "pipe")
    assert len(read(tmp_path)[0]) == 24


def test_a_text_bomb_in_a_png_is_refused(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "x" * (PngImagePlugin.MAX_TEXT_CHUNK + 1), zip=True)
    save(np.zeros((20, 20)), tmp_path / "a.png", pnginfo=info)
    with pytest.raises(UserError, match=r"a\.png"):
        read_grey(tmp_path / "a.png", 32)


def test_links_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "mine"
    write_pictures(root)
    outside = save(np.zeros((20, 20)), tmp_path / "outside.png")
    link = root / "class_0" / "link.png"
    link.symlink_to(outside)
    refused(root, "must lie inside", "link.png", "copy it in")
    link.unlink()
    link.symlink_to(root / "class_1" / "0.png")  # inside: allowed
    assert len(read(root)[0]) == 25
    (root / "class_9").symlink_to(tmp_path)
    refused(root, "must lie inside", "class_9")


@pytest.mark.parametrize("parent", ["mine", os.fsdecode(b"m\xefne")])
def test_a_name_that_is_not_utf_8_is_refused(tmp_path: Path, parent: str) -> None:
    root = tmp_path / parent
    write_pictures(root)
    (root / "class_1").rename(root / os.fsdecode(b"caf\xe9"))
    refused(root, "must be printable UTF-8", "\\udce")


def test_the_key_changes_with_any_picture(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    first = folder_source(tmp_path).key
    assert folder_source(tmp_path).key == first
    save(np.zeros((20, 20)), tmp_path / "class_0" / "0.png")
    assert folder_source(tmp_path).key != first


def write_coloured(root: Path, *, classes: int = 3) -> None:
    """Pictures of one colour a class, in a frame of another: [24, 32, 3]."""
    for number in range(classes):
        (root / f"class_{number}").mkdir(parents=True)
        for picture in range(8):
            pixels = np.full((24, 32, 3), (200, 30, 10), np.uint8)
            pixels[4:-4, 4:-4] = (10, 40 * number, 250 - picture)
            save(pixels, root / f"class_{number}" / f"{picture}.png")


def test_coloured_pictures_keep_their_channels(tmp_path: Path) -> None:
    write_coloured(tmp_path)
    pictures = folder_source(tmp_path).read(32, quiet)
    blocks = list(pictures.pixels)
    assert pictures.channels == 3
    assert blocks[0].shape == (1, 3, 32, 32)
    assert blocks[9][0, :, 16, 16].tolist() == [10, 40, 249]
    assert blocks[0][0, :, 0, 16].tolist() == [200, 30, 10]  # filled up with the border's colour


@pytest.mark.parametrize("size", [32, 64])
def test_a_coloured_set_is_cached_with_its_channels(tmp_path: Path, size: int) -> None:
    write_coloured(tmp_path / "mine")
    images = load_folder(tmp_path / "mine", cache_dir=tmp_path / "cache", size=size, report=quiet)
    assert images.images.shape == (24, 3, size, size)
    assert images.images[0, :, size // 2, size // 2].tolist() == [10, 0, 250]


def test_grey_tones_stored_as_rgb_are_grey(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    for file in tmp_path.glob("class_0/*.png"):
        with Image.open(file) as image:
            image.convert("RGB").save(file)
    assert folder_source(tmp_path).read(32, quiet).channels == 1


@pytest.mark.parametrize("sample", [1, 256])
def test_grey_tones_and_colours_that_are_all_stored_as_rgb_are_in_colour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sample: int
) -> None:
    monkeypatch.setattr(image_folder, "SAMPLE", sample)
    write_coloured(tmp_path)
    for number in range(7):
        save(np.full((20, 20, 3), 90), tmp_path / "class_0" / f"{number}.png")
    pictures = folder_source(tmp_path).read(32, quiet)
    assert pictures.channels == 3
    assert len(list(pictures.pixels)) == 24


def test_a_grey_picture_among_coloured_ones_is_named(tmp_path: Path) -> None:
    write_coloured(tmp_path)
    save(np.zeros((20, 20)), tmp_path / "class_1" / "5.png")
    refused(tmp_path, "1 channel", "class_1/5.png", "which is grey")


def test_a_coloured_picture_among_grey_ones_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pictures(tmp_path)
    monkeypatch.setattr(image_folder, "SAMPLE", 2)  # the first and the last
    pixels = np.full((20, 20, 3), (250, 0, 0), np.uint8)
    save(pixels, tmp_path / "class_1" / "5.png")
    refused(tmp_path, "1 channel", "class_1/5.png", "in colour")
