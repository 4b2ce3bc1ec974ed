"""MLflow's runs as the tracker needs them: plain calls that wait, within MLflow's limits.

Here and in what opens its client MLflow is imported, and only when a `RunStore` is made (2 s).
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlsplit
from urllib.request import url2pathname

from trainables.durable import in_place_of
from trainables.errors import UserError
from tuner.champion_folder import CHAMPION
from tuner.registered_models import FOLDER, Models
from tuner.sqlite_batches import Point, write_batch
from tuner.store_failures import usable
from tuner.tracking_uri import SERVERS, scheme_of, sqlite_path, strip_credentials

if TYPE_CHECKING:
    from mlflow.entities import Run

Row = TypeVar("Row")

METRICS_PER_BATCH, PARAMS_PER_BATCH = 900, 100  # MLflow takes 1000 things at once, 100 tags
MAX_PARAM, MAX_TAG, MAX_KEY = 6000, 8000, 250  # characters

NO_TAGS: Mapping[str, str] = MappingProxyType({})

NOTE = "mlflow.note.content"  # tag: a run's description, Markdown on its first page
PICTURES = "mlflow.loggedImages"  # tag: a run has some that MLflow's charts show
UPLOADING = ".artifact.uploading."  # before names of files that MLflow does not list
SETTINGS = "trial/config.json"  # artifact: everything that a trial's process was told


class RunStore(Models):
    """One experiment of a tracking store.

    Attributes:
        experiment_id: MLflow's id of the experiment.
    """

    def __init__(self, uri: str, *, experiment: str, storage: Path) -> None:
        """Open the store, making the SQLite file and the experiment if there are none.

        Args:
            uri: as `tracking_uri.resolve_uri` returns it.
            experiment: name of the experiment.
            storage: folder below which files of the runs go if the store is a database server's.

        Raises:
            UserError: the experiment is deleted.
            Exception: whatever stores and drivers raise; `usable` makes one line of it.
        """
        super().__init__(uri)
        self._database = sqlite_path(uri).resolve() if scheme_of(uri) == "sqlite" else None
        self._folders: dict[str, Path | None] = {}
        self.experiment_id = self._find_experiment(experiment, storage)

    def create(self, name: str, tags: Mapping[str, str], when: int) -> str:
        """Begin a run, at a Unix time in ms; returns its id."""
        run = self._client.create_run(
            self.experiment_id, start_time=when, tags=_fit_tags(tags), run_name=name
        )
        run_id = str(run.info.run_id)
        self._folders[run_id] = _folder_at(run.info.artifact_uri)
        return run_id

    def reopen(self, run_id: str) -> None:
        """Mark an ended run as running."""
        self._client.update_run(run_id, status="RUNNING")

    def end(self, run_id: str, status: str, when: int) -> None:
        """End a run: FINISHED, FAILED or KILLED, at a Unix time in ms."""
        self._client.set_terminated(run_id, status, end_time=when)

    def is_active(self, run_id: str) -> bool:
        """Whether the store has the run and nobody deleted it."""
        from mlflow.exceptions import MlflowException

        try:
            return bool(self._client.get_run(run_id).info.lifecycle_stage == "active")
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise

    def children(self, parent: str, **tags: str) -> Iterator[tuple[str, dict[str, str]]]:
        """(run id, tags) of the runs below `parent` that bear `tags`, oldest first."""
        return self.tagged({"mlflow.parentRunId": parent, **tags})

    def tagged(self, tags: Mapping[str, str]) -> Iterator[tuple[str, dict[str, str]]]:
        """(run id, tags) of the experiment's runs that bear `tags`, oldest first."""
        condition = " and ".join(f"tags.`{key}` = {_quoted(v)}" for key, v in tags.items())
        token: str | None = None
        while True:
            page = self._client.search_runs(
                [self.experiment_id],
                condition,
                order_by=["attributes.start_time ASC"],
                page_token=token,
            )
            run: Run
            for run in page:
                yield run.info.run_id, run.data.tags
            token = page.token
            if not token:
                return

    def params(self, run_id: str) -> dict[str, str]:
        """The parameters that a run has."""
        return dict(self._client.get_run(run_id).data.params)

    def history(self, run_id: str, metric: str) -> list[tuple[int, float]]:
        """(step, value) of all points that a run has of a metric."""
        points = self._client.get_metric_history(run_id, _fit_key(metric))
        return [(point.step, point.value) for point in points]

    def without_known(self, run_id: str, points: Sequence[Point]) -> list[Point]:
        """Those of `points` that a run has not, at whatever time they were written."""
        known = {
            name: {step for step, _ in self.history(run_id, name)}
            for name in {p[0] for p in points}
        }
        return [point for point in points if point[3] not in known[point[0]]]

    def log_metrics(
        self, run_id: str, points: Sequence[Point], tags: Mapping[str, str] = NO_TAGS
    ) -> None:
        """Write points, in order, and tags after them; points that are there stay single."""
        fitted = [(_fit_key(name), value, when, step) for name, value, when, step in points]
        for rows, told in _batches(fitted, METRICS_PER_BATCH, tags):
            self._write(run_id, points=rows, tags=told)

    def log_params(
        self, run_id: str, values: Mapping[str, Any], tags: Mapping[str, str] = NO_TAGS
    ) -> None:
        """Write parameters, cut to the length that MLflow takes, and tags after them; parameters
        cannot be changed later."""
        fitted = [(_fit_key(name), str(value)[:MAX_PARAM]) for name, value in values.items()]
        for rows, told in _batches(fitted, PARAMS_PER_BATCH, tags):
            self._write(run_id, params=dict(rows), tags=told)

    def _write(
        self,
        run_id: str,
        *,
        points: Sequence[Point] = (),
        params: Mapping[str, str] = NO_TAGS,
        tags: Mapping[str, str],
    ) -> None:
        """Write a batch, within MLflow's limits but for the tags' length."""
        from mlflow.entities import Metric, Param, RunTag

        told, file = _fit_tags(tags), self._database
        if file and write_batch(file, run_id, points=points, params=params, tags=told):
            return
        self._client.log_batch(
            run_id,
            metrics=[Metric(*point) for point in points],
            params=[Param(*param) for param in params.items()],
            tags=[RunTag(*tag) for tag in told.items()],
            synchronous=True,
        )

    def log_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags, at most 100 of them."""
        self.log_metrics(run_id, (), tags)

    def tag_experiment(self, tags: Mapping[str, str]) -> None:
        """Set tags of the experiment, which have more room than a run's."""
        for key, value in tags.items():
            self._client.set_experiment_tag(self.experiment_id, key, value)

    def log_file(self, run_id: str, path: Path, folder: str | None = None) -> None:
        """Copy a file to the run's artifacts, in place of one of the same name."""
        if (root := self._folder(run_id)) is None:
            self._client.log_artifact(run_id, str(path), folder)
        else:
            with in_place_of(root / (folder or "") / path.name, UPLOADING) as new:
                shutil.copyfile(path, new)

    def log_bytes(self, run_id: str, content: bytes, name: str) -> None:
        """Write an artifact, in place of one of the same name."""
        if (root := self._folder(run_id)) is not None:
            with in_place_of(root / name, UPLOADING) as new:
                new.write_bytes(content)
            return
        *folders, file = Path(name).parts
        with tempfile.TemporaryDirectory() as place:
            path = Path(place, file)
            path.write_bytes(content)
            self._client.log_artifact(run_id, str(path), "/".join(folders) or None)

    def _folder(self, run_id: str) -> Path | None:
        """Where the run's artifacts are; None if a server or a bucket has them.

        MLflow asks its store for that before it writes a file.
        """
        if run_id not in self._folders:
            self._folders[run_id] = _folder_at(self._client.get_run(run_id).info.artifact_uri)
        return self._folders[run_id]

    def log_picture(
        self, run_id: str, content: bytes, small: bytes, key: str, step: int, when: int
    ) -> str:
        """Write a PNG where MLflow's charts look for pictures -> the small one's artifact.

        A run that has one must bear the tag `PICTURES`. MLflow's own `log_image` would decode it
        and make a small one of 256 pixels, in which no drawing of a grid can be made out.

        Args:
            small: another PNG, which is shown until somebody asks for the large one.
            key: what it shows; what stands before a "/" is its section on a run's page.
            step: at which charts of several runs compare it.
            when: Unix time in ms.
        """
        name = f"{key.replace('/', '~')}+step+{step}+timestamp+{when}+{key.rpartition('/')[2]}"
        names = (f"{name}+compressed.png", f"{name}.png")  # the latter says that there is one
        for file, bytes_of_it in zip(names, (small, content), strict=True):
            self.log_bytes(run_id, bytes_of_it, f"images/{file}")
        return f"images/{names[0]}"

    def register(self, name: str, run_id: str, folder: str, tags: Mapping[str, str]) -> int:
        """Make an artifact folder of a run a version of a registered model, once -> its number."""
        from mlflow.exceptions import MlflowException

        condition = f"name = {_quoted(name)} and run_id = {_quoted(run_id)}"
        for there in self._client.search_model_versions(condition):
            if there.tags.get(FOLDER) == folder:
                return int(there.version)
        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        source = f"{self._client.get_run(run_id).info.artifact_uri}/{folder}"
        tags = _fit_tags({**tags, FOLDER: folder})
        made = self._client.create_model_version(name, source, run_id, tags=tags)
        return int(made.version)

    def describe(self, name: str, model: str, version: int, card: str) -> None:
        """Write the descriptions of a registered model and of one of its versions, in Markdown."""
        self._client.update_registered_model(name, model)
        self._client.update_model_version(name, str(version), card)

    def crown(self, name: str, version: int) -> None:
        """Move the alias `@champion` to a version."""
        self._client.set_registered_model_alias(name, CHAMPION, str(version))

    def _find_experiment(self, name: str, storage: Path) -> str:
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                folder = _artifacts(self.uri, storage, name)
                return str(self._client.create_experiment(name, folder))
            except MlflowException as error:
                found = self._client.get_experiment_by_name(name)  # another study's, meanwhile
                if error.error_code != "RESOURCE_ALREADY_EXISTS" or found is None:
                    raise
        if found.lifecycle_stage != "active":
            raise UserError(
                f"The experiment {name!r} is deleted in {strip_credentials(self.uri)}; bring it "
                f"back with `mlflow experiments restore --experiment-id {found.experiment_id}`."
            )
        return str(found.experiment_id)


def picture(run_id: str, name: str) -> str:
    """Markdown that shows an artifact on a run's page."""
    return f"![{Path(name).name}](get-artifact?path={quote(name)}&run_uuid={run_id})"


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{name}."))
        else:
            flat[name] = value
    return flat


def require_store(uri: str, *, experiment: str, storage: Path) -> None:
    """Look whether runs can be kept there; arguments as of `RunStore`, which makes the experiment.

    Raises:
        UserError: they cannot.
    """
    with usable(uri):
        RunStore(uri, experiment=experiment, storage=storage)


def _artifacts(uri: str, storage: Path, experiment: str) -> str | None:
    """Where files of an experiment go; None leaves it to a server.

    Always absolute: MLflow's default beside a database is `./mlruns` of the working folder.
    """
    if scheme_of(uri) in SERVERS:
        return None
    root = sqlite_path(uri).parent if scheme_of(uri) == "sqlite" else storage.resolve()
    return (root / "mlartifacts" / experiment).as_uri()


def _folder_at(uri: str) -> Path | None:
    """The folder of a file URI; None for an address of another kind."""
    return Path(url2pathname(urlsplit(uri).path)) if scheme_of(uri) == "file" else None


def _quoted(value: str) -> str:
    """A value in MLflow's filters, which know no way to write a quote within quotes."""
    if not re.fullmatch(r"[\w .:+-]*", value):
        raise ValueError(f"{value!r} cannot be looked for in a tracking store")
    return f"'{value}'"


def _batches(
    rows: Sequence[Row], most: int, tags: Mapping[str, str]
) -> Iterator[tuple[Sequence[Row], Mapping[str, str]]]:
    """At most `most` rows at once, and the tags with the last of them; one batch if there are no
    rows."""
    starts = range(0, max(1, len(rows)), most)
    for start in starts:
        yield rows[start : start + most], tags if start == starts[-1] else NO_TAGS


def _fit_key(name: str) -> str:
    kept = "".join(c if c.isalnum() or c in "_-. :/" else "_" for c in name)
    return kept[:MAX_KEY]


def _fit_tags(tags: Mapping[str, str]) -> dict[str, str]:
    return {_fit_key(key): value[:MAX_TAG] for key, value in tags.items()}
