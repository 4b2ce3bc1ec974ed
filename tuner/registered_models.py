"""The registered models of a tracking store, to read."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tuner.champion_folder import CHAMPION
from tuner.store_client import open_client, silence

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

MODEL = "best"  # artifact folders of a study's run: what is registered
FOLDER = "folder"  # tag of a version: which of them it is


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """A version of a registered model; its run tells it from another store's of that number."""

    number: int
    run_id: str
    tags: Mapping[str, str]


class Models:
    """The registered models of a tracking store, to read.

    Attributes:
        uri: of the store; may hold credentials, so never print it.
    """

    def __init__(self, uri: str) -> None:
        """Open the store.

        Args:
            uri: as `tracking_uri.resolve_uri` returns it.
        Raises:
            Exception: whatever stores and drivers raise; `usable` makes one line of it.
        """
        self.uri = uri
        silence()
        self._client = open_client(uri)

    def champion(self, name: str, alias: str = CHAMPION) -> Version | None:
        """The version of a registered model that bears an alias."""
        return self._version(lambda: self._client.get_model_version_by_alias(name, alias))

    def version(self, name: str, number: int) -> Version | None:
        """A version of a registered model."""
        return self._version(lambda: self._client.get_model_version(name, str(number)))

    def _version(self, ask: Callable[[], ModelVersion]) -> Version | None:
        from mlflow.exceptions import MlflowException

        try:
            found = ask()
        except MlflowException as error:
            # A model without the alias is an invalid value for MLflow, no model is a missing one;
            # by status they would be as a broken database, and as any page of a proxy's.
            if error.error_code in ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"):
                return None
            raise
        return Version(number=int(found.version), run_id=str(found.run_id), tags=dict(found.tags))

    def download(self, name: str, version: int, file: str, folder: Path) -> Path:
        """Copy a file of a registered model below `folder`.

        Its run says where it lies: a version's own source may be any place.
        """
        found = self._client.get_model_version(name, str(version))
        place = found.tags.get(FOLDER, MODEL)
        if not re.fullmatch(rf"{MODEL}(-[0-9a-f]+)?", place):
            raise ValueError(f"version {version} of {name} has its files in {place!r}")
        source = f"{place}/{file}"
        return Path(self._client.download_artifacts(str(found.run_id), source, str(folder)))
