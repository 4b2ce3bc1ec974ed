"""Small files in the formats of the published sets, and folders of pictures, for the tests."""

from __future__ import annotations

import gzip
import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from trainables.image_set import ImageSet


def quiet(_message: str) -> None:
    """Report nothing."""


def idx_bytes(array: np.ndarray) -> bytes:
    """Return an idx file of unsigned bytes."""
    sizes = b"".join(n.to_bytes(4, "big") for n in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


def write_mnist(folder: Path, *, per_class: tuple[int, int] = (6, 5), zipped: bool = True) -> None:
    """Write the four idx files of a small MNIST; labels run 0 to 9 again and again.

    A picture has its label in pixel (0, 0), 100 or 200 (train or t10k) in pixel (0, 1).
    """
    folder.mkdir(parents=True, exist_ok=True)
    for part, count, mark in (("train", per_class[0], 100), ("t10k", per_class[1], 200)):
        labels = np.tile(np.arange(10), count)
        images = np.zeros((len(labels), 28, 28), np.uint8)
        images[:, 0, 0], images[:, 0, 1] = labels, mark
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            file = folder / f"{part}-{name}-ubyte"
            if zipped:
                file.with_name(file.name + ".gz").write_bytes(gzip.compress(idx_bytes(array)))
            else:
                file.write_bytes(idx_bytes(array))


def drawing_png(seed: int, side: int = 105) -> bytes:
    """Return a black cross on white as a 1-bit PNG, its place depending on `seed`."""
    pixels = np.ones((side, side), bool)
    row, column = 20 + seed % 60, 20 + (7 * seed) % 60
    pixels[row - 2 : row + 3, 10:-10] = False
    pixels[10:-10, column - 2 : column + 3] = False
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def omniglot_files(
    stem: str, *, alphabets: int = 6, characters: int = 2, drawings: int = 8
) -> dict[str, bytes]:
    """Return name -> content of a small part of Omniglot."""
    return {
        f"{stem}/Alphabet_{a}/character{c:02d}/{a:02d}{c:02d}_{d:02d}.png": drawing_png(
            100 * a + 10 * c + d
        )
        for a in range(alphabets)
        for c in range(1, characters + 1)
        for d in range(1, drawings + 1)
    }


def write_zip(path: Path, files: dict[str, bytes]) -> None:
    """Write a zip archive."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def write_omniglot(root: Path) -> None:
    """Write both archives of a small Omniglot: 6 and 3 alphabets of 2 characters, 8 drawings."""
    for stem, alphabets in (("images_background", 6), ("images_evaluation", 3)):
        files = omniglot_files(stem, alphabets=alphabets)
        write_zip(root / "omniglot-py" / f"{stem}.zip", files)


def write_pictures(
    root: Path, *, classes: int = 3, count: int = 8, paper: int = 255, ink: int = 0
) -> None:
    """Write folders class_0, class_1, ... of PNGs 40 wide and 30 high with a bar on them."""
    for c in range(classes):
        (root / f"class_{c}").mkdir(parents=True)
        for k in range(count):
            pixels = np.full((30, 40), paper, np.uint8)
            pixels[10 + c : 15 + c, 8 : 20 + k] = ink
            Image.fromarray(pixels).save(root / f"class_{c}" / f"{k}.png")


def make_set(name: str, counts: dict[str, int], held_out: tuple[str, ...] = ()) -> ImageSet:
    """Return a set in memory: `counts` pictures a class, the later half held out where named."""
    labels = np.repeat(np.arange(len(counts)), list(counts.values()))
    flags = [c in held_out and k >= n // 2 for c, n in counts.items() for k in range(n)]
    return ImageSet(
        name=name,
        images=np.zeros((len(labels), 1, 16, 16), np.uint8),
        labels=labels,
        classes=tuple(counts),
        held_out=np.array(flags, bool),
        fingerprint="0" * 16,
        stand_in=False,
        path=Path(),
    )
