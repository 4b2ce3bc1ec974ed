"""Generators of Reptile trials that share the critic of stride-2 convolutions, by name.

No torch until one is asked for, so that configs are checked without it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from trainables.errors import UserError
from trainables.registry import add, resolved

if TYPE_CHECKING:
    from trainables.models.network import Network

Kind = TypeVar("Kind", bound="type[Network]")
ARCHITECTURES = ("dense", "plane", "compact", "infogan", "dcgan", "resnet")  # ours, as searched
ARGUMENTS = ("size", "channels", "width", "latent")  # that a generator is built with
# Named, not imported; the other three of ours bring critics of their own.
GENERATORS: dict[str, str | Callable[..., Network]] = {
    "dense": "trainables.models.dense:DenseGenerator",
    "plane": "trainables.models.dense:PlaneGenerator",
    "compact": "trainables.models.compact:CompactGenerator",
}


def architectures() -> tuple[str, ...]:
    """All values that `ReptileConfig.architecture` may have: ours, and those of plugins."""
    return (*ARCHITECTURES, *(name for name in GENERATORS if name not in ARCHITECTURES))


def load_generator(name: str) -> Callable[..., Network]:
    """The class that `GENERATORS` names; it is built with `ARGUMENTS`."""
    return resolved(GENERATORS[name])


def register_generator(name: str) -> Callable[[Kind], Kind]:
    """Make a generator an architecture of Reptile trials: `ReptileConfig(architecture=name)`.

    The class is a `Network` from latents [T, n, Z] to pictures [T, n, C, S, S] in [-1, 1], whose
    weights carry a task axis T, and is built as
    `Generator(size=S, channels=C, width=..., latent=Z)`. It plays against the critic that the
    generators `dense`, `plane` and `compact` have.

    Args:
        name: letters, digits and "_"; no other architecture's.
    Raises:
        UserError: the name is taken, or the class is no such generator.
    """

    def register(kind: Kind) -> Kind:
        _require_generator(kind)
        add(GENERATORS, "generator", name, kind, taken=ARCHITECTURES)
        return kind

    return register


def _require_generator(kind: type[Network]) -> None:
    from trainables.models.network import Network

    if not (isinstance(kind, type) and issubclass(kind, Network)):
        raise UserError(f"A generator must be a class derived from Network, got {kind!r}.")
    if missing := sorted(kind.__abstractmethods__):
        raise UserError(f"Generator {kind.__name__} lacks the method {', '.join(missing)}.")
    try:
        inspect.signature(kind).bind(**dict.fromkeys(ARGUMENTS))
    except TypeError as error:
        raise UserError(
            f"Generator {kind.__name__} must be built with {', '.join(ARGUMENTS)}: {error}."
        ) from error
