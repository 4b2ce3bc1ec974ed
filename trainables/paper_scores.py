"""The paper's own scores, of pictures that were drawn for a test: MSE, SSIM and BRISQUE.

They are reported and never searched on: copying the shots wins MSE and SSIM, and BRISQUE differs
more between two resampling filters than between the paper's methods.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image
from skimage.metrics import structural_similarity

from trainables.metrics import Bytes, Floats, nearest_shot

PICTURES = 100  # of a generator, from all its episodes alike
BRISQUE_SIDE = 64  # pixels, reached with a bilinear filter
WORST = 100.0  # BRISQUE; beyond it, and for pictures of one colour, the model tells nothing


def paper_scores(samples: Bytes, shots: Bytes, reals: Bytes) -> dict[str, float]:
    """Score samples against their nearest shot, all shots, and pictures that no model was given.

    Args:
        samples, shots, reals: uint8 [E, n, C, S, S], [E, K, C, S, S] and [E, m, C, S, S].
    Returns:
        mse (on 0 to 255), mse_rgb_sum (three times that) and ssim of the nearest shot by squared
        difference; the first and last also `_all_shots` and `_held_out` (one random real picture
        each); where the library is installed brisque (0 to 100, lower is said to be better) and
        brisque_saturated (share of pictures beyond its range).
    """
    each = -(-PICTURES // len(samples))
    chosen = samples[:, :each]
    pairs = list(zip(chosen, shots, reals, strict=True))
    near = [nearest_shot(drawn, own) for drawn, own, _ in pairs]
    every = [_compare(drawn[:, None], own[None]) for drawn, own, _ in pairs]
    other = [_compare(drawn, _opposite(real, len(drawn))) for drawn, _, real in pairs]
    found = {"mse": _mean(e for e, _ in near), "ssim": _mean(s for _, s in near)}
    found["mse_rgb_sum"] = 3 * found["mse"]
    for name, both in (("all_shots", every), ("held_out", other)):
        found[f"mse_{name}"] = _mean(e for e, _ in both)
        found[f"ssim_{name}"] = _mean(s for _, s in both)
    return found | _brisque(chosen.reshape(-1, *chosen.shape[2:]))


def _opposite(reals: Bytes, count: int) -> Bytes:
    """A real picture for each of `count` samples; over and over where they are fewer.

    Neither has an order, so these are random pairs; turned, for samples that are the real ones.
    """
    return reals[(np.arange(count) - 1) % len(reals)]


def _compare(first: Bytes, second: Bytes) -> tuple[Floats, Floats]:
    """MSE and SSIM of pictures [..., C, S, S] pair by pair."""
    size = first.shape[-3:]
    both = [a.reshape(-1, *size) for a in np.broadcast_arrays(first, second)]
    errors = np.square(both[0].astype(np.float64) - both[1]).mean((1, 2, 3))
    similarity = [
        structural_similarity(a, b, data_range=255, channel_axis=0)  # type: ignore[no-untyped-call]
        for a, b in zip(*both, strict=True)
    ]
    return errors, np.array(similarity)


def _mean(parts: Iterator[Floats]) -> float:
    return float(np.concatenate(list(parts)).mean())


def _brisque(pictures: Bytes) -> dict[str, float]:
    """The mean over pictures [N, C, S, S]; nothing where the library is absent."""
    model = brisque_model()
    if model is None:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # divisions by 0, in pictures of one colour
        scores = np.array([model.score(_enlarged(picture)) for picture in pictures])
    beyond = ~(scores < WORST)  # NaN, too
    return {
        "brisque": float(np.where(beyond, WORST, scores.clip(min=0)).mean()),
        "brisque_saturated": float(beyond.mean()),
    }


def brisque_model() -> Any:
    """The library's model, whose `score` takes uint8 [H, W, 3]; None where it is not installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it imports from scipy's old places
            from brisque import BRISQUE
    except ImportError:
        return None

    class Brisque(BRISQUE):  # type: ignore[misc]
        def scale_features(self, features: Floats) -> Floats:
            # Some are arrays of one number, which numpy no longer takes for numbers.
            flat = [np.asarray(f, dtype=np.float64).reshape(-1)[0] for f in features]
            scaled: Floats = super().scale_features(flat)
            return scaled

    return Brisque()


def _enlarged(picture: Bytes) -> Bytes:
    """[C, S, S] -> [64, 64, 3]."""
    colours = np.broadcast_to(picture, (3, *picture.shape[1:]))
    image = Image.fromarray(np.ascontiguousarray(colours.transpose(1, 2, 0)))
    return np.asarray(image.resize((BRISQUE_SIDE, BRISQUE_SIDE), Image.Resampling.BILINEAR))
