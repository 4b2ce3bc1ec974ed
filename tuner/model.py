"""A champion, opened: it makes new pictures of whatever a few given ones show."""

from __future__ import annotations

import io
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from trainables.addresses import is_address
from trainables.errors import UserError, one_line
from trainables.tasks import MOST_SHOTS
from tuner.champion_folder import CHAMPION, FILES, kept_samples
from tuner.command_line import STORAGE
from tuner.plugins import require
from tuner.request import NAME, is_study_name
from tuner.storage import parse_storage
from tuner.tracking_uri import resolve_uri, scheme_of, sqlite_path, strip_credentials

if TYPE_CHECKING:
    from torch import Tensor

    from trainables.data_card import DataCard
    from tuner.registered_models import Models, Version

LARGEST_CONFIG = 2**20  # bytes; ours have a thousand
MOST_PICTURES = 4096
STRETCH = 3  # times a model's own steps that it adapts for at most

Bytes = npt.NDArray[np.uint8]

_REGISTERED = re.compile(rf"models:/({NAME})(?:@([A-Za-z0-9_-]+)|/([1-9][0-9]*))")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Copying:
    """How near new pictures come to the given ones.

    Attributes:
        copy_share: share of them that is a copy of a shot: nearer to one, also mirrored or moved a
            little, than 99 of 100 real pictures of the class are to theirs.
        distance: from a picture to its nearest shot, the median: 0 is a copy, 1 an empty picture.
        real_copy_share, real_distance: the same of real pictures of the model's test classes.
        nearest: which shot is the nearest to each picture, [n].
        distances: to it, [n].
        copies: which pictures are copies, [n].
    """

    copy_share: float
    distance: float
    real_copy_share: float
    real_distance: float
    nearest: npt.NDArray[np.intp]
    distances: npt.NDArray[np.floating]
    copies: npt.NDArray[np.bool_]


class Model:
    """A champion, ready to draw.

    Attributes:
        title: what it is, for people.
        card: what its data looks like; see `trainables.shots`.
        channels: of its pictures, 1 (light ink on dark) or 3.
        size: of their sides, in pixels.
        steps: of adaptation, which its study chose as best.
        max_steps: as far as it adapts at all.
    """

    def __init__(
        self, title: str, settings: Mapping[str, Any], weights: Mapping[str, Tensor], card: DataCard
    ) -> None:
        """What the files hold; see `open`.

        Args:
            title: for people.
            settings: of config.json: "pipeline", "config" and "adapt_steps".
            weights: by name.
            card: of its data.
        Raises:
            ValueError, KeyError, TypeError: these are not of one model.
        """
        self.title, self.card = title, card
        self.channels, self.size = card.channels, card.size
        self.steps = int(settings["adapt_steps"])
        self.max_steps = STRETCH * self.steps
        self._pipeline, self._config = str(settings["pipeline"]), dict(settings["config"])
        self._weights = dict(weights)
        shape = (1, self.channels, self.size, self.size)
        ((_, drawn),) = self._drawn(np.zeros(shape, np.uint8), 1, 0, [0], None)
        if drawn.shape != shape or self.steps < 1:
            raise ValueError(f"it draws {drawn.shape}, not {shape}, in {self.steps} steps")

    @staticmethod
    def open(source: str, *, storage: str | None = None, tracking_uri: str | None = None) -> Model:
        """Open a model.

        Args:
            source: an experiment, whose registered champion is meant, or the champion in the
                folder of the study of that name where none is registered; `models:/NAME@ALIAS` or
                `models:/NAME/VERSION`; or the folder of a study or of a champion.
            storage: of all studies: folder, s3://..., gs://...; "runs" if None.
            tracking_uri: of the store with the registered models; the one in `storage` if None.
        Raises:
            UserError: there is no such model, or its files are damaged or of another kind.
        """
        registered = _REGISTERED.fullmatch(source)
        folder = None if registered else _folder_of(source)
        if folder is not None:
            return _read(folder, str(folder))
        place, address = parse_storage(STORAGE if storage is None else storage)
        uri = resolve_uri(tracking_uri, place)
        if registered is not None:
            name, alias, number = registered.groups()
            model = _registered(uri, name, alias, number, place)
            if model is None:
                raise UserError(f"There is no model {source!r} in {strip_credentials(uri)}.")
            return model
        if not is_study_name(source):
            raise UserError(
                "MODEL must be an experiment, a study, models:/NAME@ALIAS, models:/NAME/VERSION "
                f"or a champion's folder, got {source!r}."
            )
        model = _registered(uri, source, CHAMPION, None, place)
        return _kept(source, place, address, uri) if model is None else model

    def draw(
        self,
        shots: Bytes,
        *,
        count: int,
        seed: int,
        stops: Sequence[int] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Iterator[tuple[int, Bytes]]:
        """Adapt to the shots (Algorithm 2 of the paper) and draw new pictures on the way.

        Equal shots, count and seed give equal pictures at a step, whatever the other stops are.

        Args:
            shots: uint8 [n, channels, size, size], n from 1 to 16; see `trainables.shots`.
            count: pictures at each stop, 1 to 4096.
            seed: of everything random, from 0.
            stops: steps of adaptation at which to draw, ascending, 0 to `max_steps`; `steps`
                alone if None.
            progress: is told the steps done and those to do, after each.
        Yields:
            The step, and pictures, uint8 [count, channels, size, size].
        Raises:
            UserError: one of these is out of range.
        """
        wanted = [self.steps] if stops is None else [int(stop) for stop in stops]
        self._require(shots, count, seed, wanted)
        return self._drawn(shots, count, seed, wanted, progress)

    def _drawn(
        self,
        shots: Bytes,
        count: int,
        seed: int,
        stops: Sequence[int],
        progress: Callable[[int, int], None] | None,
    ) -> Iterator[tuple[int, Bytes]]:
        import torch

        from trainables.pipeline import load_pipeline

        def told(step: int) -> None:
            if progress is not None:
                progress(step, stops[-1])

        pictures = load_pipeline(self._pipeline).imagine(
            self._config,
            self._weights,
            shots,
            stops=stops,
            count=count,
            seed=seed,
            device="cuda" if torch.cuda.is_available() else "cpu",
            progress=told,
        )
        yield from zip(stops, pictures, strict=True)

    def scores(self, shots: Bytes, pictures: Bytes) -> Copying:
        """How near pictures come to the shots, as the project's scoring counts copies.

        Args:
            shots: uint8 [n, channels, size, size].
            pictures: uint8 [m, channels, size, size].
        """
        from trainables.metrics import nearest_copies
        from trainables.scores import HONEST_COPIES

        distances, nearest = nearest_copies(pictures, shots)
        copies = distances < self.card.copy_threshold
        return Copying(
            copy_share=float(copies.mean()),
            distance=float(np.median(distances)),
            real_copy_share=HONEST_COPIES,
            real_distance=self.card.copy_distance,
            nearest=nearest,
            distances=distances,
            copies=copies,
        )

    def _require(self, shots: Bytes, count: int, seed: int, stops: Sequence[int]) -> None:
        if not 1 <= len(shots) <= MOST_SHOTS:
            raise UserError(f"A model takes 1 to {MOST_SHOTS} shots, got {len(shots)}.")
        shape = (len(shots), self.channels, self.size, self.size)
        if shots.dtype != np.uint8 or shots.shape != shape:
            raise UserError(f"Shots must be uint8 {shape}, got {shots.dtype} {shots.shape}.")
        if not 1 <= count <= MOST_PICTURES:
            raise UserError(f"`count` must be 1 to {MOST_PICTURES}, got {count}.")
        if not 0 <= seed < 2**63:
            raise UserError(f"`seed` must be 0 or more, got {seed}.")
        if not (stops and list(stops) == sorted(set(stops)) and stops[0] >= 0):
            raise UserError(f"Steps of adaptation must ascend from 0, got {list(stops)}.")
        if stops[-1] > self.max_steps:
            raise UserError(
                f"This model adapts for at most {self.max_steps} steps ({STRETCH} times the "
                f"{self.steps} that its study chose), got {stops[-1]}."
            )


def as_png(picture: Bytes) -> bytes:
    """A picture, uint8 [C, S, S], as a PNG file."""
    from PIL import Image

    file = io.BytesIO()
    plain = picture[0] if len(picture) == 1 else picture.transpose(1, 2, 0)
    Image.fromarray(plain).save(file, "PNG")
    return file.getvalue()


def _folder_of(source: str) -> Path | None:
    """The champion's folder, if a folder is named at all: it, or that of its study."""
    path = Path(source).expanduser()
    if is_address(source) or (os.sep not in source and not (path / FILES[0]).is_file()):
        return None
    for folder in (path, path / CHAMPION):
        if (folder / FILES[0]).is_file():
            return folder.absolute()
    raise UserError(
        f"MODEL must be the folder of a champion (with {' and '.join(FILES)}) or of a study that "
        f"has one, got {source!r}."
    )


def _kept(study: str, storage: Path, address: str | None, uri: str) -> Model:
    """The champion in the folder of a study."""
    if address is not None:
        from tuner.mirror import Mirror

        Mirror(address, storage).look(study)
    folder = storage / study / CHAMPION
    if not (folder / FILES[0]).is_file():
        there = sorted(path.parent.parent.name for path in storage.glob(f"*/{CHAMPION}/{FILES[0]}"))
        known = f"there are {', '.join(there[:10])}" if there else "there is none yet"
        raise UserError(
            f"{strip_credentials(uri)} has no champion of {study!r}, and {storage} no study of "
            f"that name with one: {known}; name one, or another --storage or --tracking-uri."
        )
    return _read(folder, study)


def _registered(
    uri: str, name: str, alias: str | None, number: str | None, storage: Path
) -> Model | None:
    """A registered model, by alias or version number; None if there is no such one."""
    if scheme_of(uri) == "sqlite" and not sqlite_path(uri).is_file():
        return None
    from tuner.registered_models import Models
    from tuner.store_failures import usable

    with usable(uri), tempfile.TemporaryDirectory() as folder:
        models = Models(uri)
        found = models.version(name, int(number)) if number else models.champion(name, str(alias))
        if found is None:
            return None
        study = storage / found.tags.get("study", "")  # may be older than this reading
        files = _downloaded(models, name, found, Path(folder))
        return _read(files, f"{name} version {found.number}", study)


def _downloaded(models: Models, name: str, version: Version, folder: Path) -> Path:
    for file in FILES:
        path = models.download(name, version.number, file, folder)
    return path.parent


def _read(folder: Path, title: str, study: Path | None = None) -> Model:
    """A model from its two files, and the samples beside them if it is older than data cards.

    Args:
        folder: with the files.
        title: of the model.
        study: folder of its study, which may have the samples that a registered model lacks.
    Raises:
        UserError: they are damaged or of another kind, or need a plugin that is not loaded.
    """
    from safetensors import SafetensorError

    from trainables.weights import read_weights

    try:
        path = folder / FILES[0]
        if (size := path.stat().st_size) > LARGEST_CONFIG:
            raise ValueError(f"{path.name} has {size:,} bytes")
        settings = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(settings, dict):
            raise TypeError(f"{path.name} holds no settings")
        require(settings.get("plugins", ()), title)
        card = _card(settings, folder)
        if card is not None:
            weights = read_weights(folder / FILES[1])
            method = settings["config"].get("method", settings["pipeline"])
            what = f"{method} on {card.name}, {card.size} x {card.size} pixels"
            return Model(f"{title} ({what})", settings, weights, card)
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise UserError(
            f"A champion must be a whole {' and '.join(FILES)}, got {title!r} ({one_line(error)}); "
            "name another."
        ) from error
    there = study is not None and kept_samples(study / CHAMPION) is not None
    raise UserError(
        f"{title} is older than the numbers that say what a model's pictures look like: "
        f"{f'name its study, {str(study)!r}' if there else 'search again, and use the new model'}."
    )


def _card(settings: Mapping[str, Any], folder: Path) -> DataCard | None:
    from trainables.data_card import DataCard

    if "data" in settings:
        return DataCard.from_dict(settings["data"])
    kept = kept_samples(folder)
    return None if kept is None else DataCard.of_shots("pictures of its study", kept.shots)
