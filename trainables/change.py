"""How strongly pictures are changed, as configs say it; `augment` does it."""

from __future__ import annotations

from dataclasses import astuple, dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """How strongly pictures are changed, each from 0 (not at all).

    Attributes:
        place: turned and shifted.
        scale: made larger or smaller.
        brightness: of the ink as a whole.
        shape: stretched, sheared, and warped smoothly.
        tone: another gamma curve, and smooth light and shade.
    """

    place: float = 0.0
    scale: float = 0.0
    brightness: float = 0.0
    shape: float = 0.0
    tone: float = 0.0

    def __post_init__(self) -> None:
        if min(astuple(self)) < 0:
            raise ValueError(f"no strength may be negative, got {self}.")

    @classmethod
    def affine(cls, strength: float) -> Change:
        """What augmentation usually is: +-15 degrees, +-10 % of a side on each axis, +-10 % of
        the size and +-20 % of the ink at strength 1."""
        return cls(place=strength, scale=strength, brightness=strength)

    @classmethod
    def searched(cls, place: float, shape: float, tone: float) -> Change:
        """What a search varies, each in [0, 1]: where, of what form, and how bright things are."""
        return cls(place=place, scale=shape, shape=shape, brightness=2 * tone, tone=tone)


NO_CHANGE = Change()
STRONG = Change.affine(1.0)  # of four shots: what trained generators are compared with
