"""A champion as MLflow serves it: a request with a few pictures is answered with new ones.

    mlflow models serve -m models:/reptile_omniglot@champion --env-manager local

A request to /invocations is JSON. `shot` is a picture file of any size in base64, one a row, and
what `params` leaves out has its default:

    {"dataframe_records": [{"shot": "iVBORw0KGgo..."}, ...],
     "params": {"count": 64, "seed": 0, "steps": -1}}

The answer's `predictions` hold a row for each new picture: `picture`, a PNG in base64; the number
of the `nearest_shot`, from 0; the `distance` to it, 0 for a copy and 1 for an empty picture; and
whether it is a near `copy`.

MLflow finds this module by the name that a registered model's `MLmodel` file has: no code and no
pickled object lies beside the weights.
"""

from __future__ import annotations

import base64
import binascii
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from trainables.errors import UserError
from tuner.mlmodel import OWN_STEPS
from tuner.model import Model, as_png

if TYPE_CHECKING:
    import pandas as pd


def _load_pyfunc(path: str) -> Served:
    """What MLflow calls with the folder of a model's files."""
    import torch

    torch.set_num_threads(1)  # as `generate` does
    return Served(Model.open(str(Path(path).absolute())))


class Served:
    """Answers requests."""

    def __init__(self, model: Model) -> None:
        """Nothing is drawn yet."""
        self._model = model

    def predict(self, data: pd.DataFrame, params: Mapping[str, Any]) -> pd.DataFrame:
        """New pictures.

        Args:
            data: one shot a row, as the module says.
            params: count, seed and steps.
        Raises:
            MlflowException: the request cannot be met; of the client's kind.
        """
        try:
            return self._answer(data["shot"].tolist(), **params)
        except UserError as error:
            raise MlflowException(str(error), INVALID_PARAMETER_VALUE) from error

    def _answer(self, encoded: list[str], count: int, seed: int, steps: int) -> pd.DataFrame:
        import pandas as pd

        from trainables.shots import read_shots

        with tempfile.TemporaryDirectory() as folder:
            files = [_decoded(text, Path(folder, f"shot {n}")) for n, text in enumerate(encoded)]
            shots = read_shots(files, self._model.card)
        stop = self._model.steps if steps == OWN_STEPS else steps
        ((_, pictures),) = self._model.draw(shots, count=count, seed=seed, stops=[stop])
        copying = self._model.scores(shots, pictures)
        return pd.DataFrame(
            {
                "picture": [base64.b64encode(as_png(p)).decode() for p in pictures],
                "nearest_shot": copying.nearest.astype("int64"),
                "distance": copying.distances.astype("float64"),
                "copy": copying.copies,
            }
        )


def _decoded(text: str, file: Path) -> Path:
    """A picture file out of base64."""
    try:
        file.write_bytes(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError) as error:
        raise UserError(f"{file.name} must be a picture file in base64 ({error}).") from error
    return file
