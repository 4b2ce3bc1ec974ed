"""What a study's champion is worth, in plain sentences, from scores paired by test episode."""

from __future__ import annotations

import numpy as np

from trainables.evaluation import Scores
from tuner import bootstrap

# Sign of the difference that is better.
JUDGED = {"J": 1.0, "L": -1.0}
WORDS = {
    "better": "better than",
    "worse": "worse than",
    "not distinguishable": "not distinguishable from",
}


def judge(
    champion: Scores | None,
    augmented: Scores | None,
    reference: Scores | None,
    own: Scores | None = None,
) -> str:
    """On which side the champion is of the strongly augmented shots, of the paper's recipe, and of
    the shots that it was adapted to as its own augmentation changes them.

    Args:
        champion, augmented, reference, own: scores of the same test episodes; None where there are
            none. The reference is the paper's recipe after as much compute.
    """
    if champion is None or augmented is None:
        return "No tested champion to compare with the strongly augmented shots."
    told = _compared(champion, augmented, "strongly augmenting the shots")
    sentences = [f"On test classes the champion is {told}."]
    if reference is not None:
        told = _compared(champion, reference, "the paper's recipe at equal compute")
        sentences.append(f"It is {told}.")
    if own is not None:
        told = _compared(champion, own, "augmenting the shots as it does itself")
        sentences.append(f"What its nets add: it is {told}.")
    return " ".join(sentences)


def side_of_mark(verdict: str) -> str:
    """On which side of the strongly augmented shots a verdict of `judge` says that the champion is
    by J, a key of `WORDS`; empty if it compares none."""
    return next((side for side, words in WORDS.items() if f"champion is {words} " in verdict), "")


def _compared(ours: Scores, theirs: Scores, whom: str) -> str:
    """Such as "better than X by J (+0.10 [+0.05, +0.15]), worse by L (...)"."""
    sides, told = [], []
    for name, sign in JUDGED.items():
        pair = ours.contributions(name)[None], theirs.contributions(name)[None]
        low, high = bootstrap.paired_interval(*pair)
        change = float(np.mean(pair[0]) - np.mean(pair[1]))
        sides.append(_side(sign * low, sign * high))
        told.append(f"{name} ({change:+.2f} [{low:+.2f}, {high:+.2f}])")
    first = f"{WORDS[sides[0]]} {whom} by {told[0]}"
    return first + (f" and {told[1]}" if sides[0] == sides[1] else f", {sides[1]} by {told[1]}")


def _side(one: float, other: float) -> str:
    if min(one, other) > 0:
        return "better"
    return "worse" if max(one, other) < 0 else "not distinguishable"
