"""MLflow's runs as the tracker needs them: plain calls that wait, within MLflow's limits.

Here and in what opens its client MLflow is imported, and only when a `RunStore` is made (2 s).
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlsplit
from urllib.request import url2pathname

from trainables.errors import UserError
from tuner.sqlite_batches import Point, write_batch
from tuner.store_client import CHECK_SECONDS, open_client, silence
from tuner.tracking_uri import (
    SERVERS,
    not_let_in,
    scheme_of,
    sqlite_path,
    strip_credentials,
    unreachable,
)

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.exceptions import MlflowException

Row = TypeVar("Row")

METRICS_PER_BATCH, PARAMS_PER_BATCH = 900, 100  # MLflow takes 1000 things at once, 100 tags
MAX_PARAM, MAX_TAG, MAX_KEY = 6000, 8000, 250  # characters

CHAMPION = "champion"  # alias of a registered model
MODEL = "best"  # artifact folders of a study's run: what is registered
FOLDER = "folder"  # tag of a version: which of them it is

NO_TAGS: Mapping[str, str] = MappingProxyType({})

NOTE = "mlflow.note.content"  # tag: a run's description, Markdown on its first page
PICTURES = "mlflow.loggedImages"  # tag: a run has some that MLflow's charts show
SETTINGS = "trial/config.json"  # artifact: everything that a trial's process was told


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
            with _in_place_of(root / (folder or "") / path.name) as new:
                shutil.copyfile(path, new)

    def log_bytes(self, run_id: str, content: bytes, name: str) -> None:
        """Write an artifact, in place of one of the same name."""
        if (root := self._folder(run_id)) is not None:
            with _in_place_of(root / name) as new:
                new.write_bytes(content)
            return
        *folders, file = Path(name).parts
        with tempfile.TemporaryDirectory() as place:
            path = Path(place, file)
            path.write_bytes(content)
            self._client.log_artifact(run_id, str(path), "/".join(folders) or None)

    def _folder(self, run_id: str) -> Path | None:
        """Where the run's artifacts are; None if a server or a bucket has them.

        MLflow asks the store for that, and takes three times as long for a file.
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


@contextmanager
def usable(uri: str) -> Iterator[None]:
    """In here, calls to a server fail fast, and every failure is a `UserError` of one line."""
    wanted = {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(CHECK_SECONDS),
    }
    before = {name: os.environ[name] for name in wanted if name in os.environ}
    os.environ.update(wanted)
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # MLflow lets through whatever its stores and drivers raise
        known = not _asks_who_we_are(error)
        raise (unreachable(uri, error) if known else not_let_in(uri)) from error
    finally:
        for name in wanted:
            del os.environ[name]
        os.environ.update(before)


def is_passing(error: BaseException | None) -> bool:
    """Whether a failed call is worth another try: the server's fault, or the network's."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import OperationalError

    if isinstance(error, UserError):  # the words for what is behind it
        return is_passing(error.__cause__)
    if isinstance(error, MlflowException):
        return _may_pass(http_status(error))
    answer = getattr(error, "response", None)  # an HTTP server's, to an upload
    if answer is not None:
        return _may_pass(answer.status_code)
    if isinstance(error, OperationalError | sqlite3.OperationalError):  # locked, or restarting
        return True
    return isinstance(error, OSError) and not isinstance(error, FileNotFoundError)


def _asks_who_we_are(error: Exception) -> bool:
    from mlflow.exceptions import MlflowException

    return isinstance(error, MlflowException) and http_status(error) == HTTPStatus.UNAUTHORIZED


def _may_pass(status: int) -> bool:
    return status >= 500 or status in (408, 429)


def http_status(error: MlflowException) -> int:
    """Of a server's answer, or what a server would have answered."""
    return int(error.get_http_status_code())  # type: ignore[no-untyped-call]


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


@contextmanager
def _in_place_of(target: Path) -> Iterator[Path]:
    """A file to write, which takes the place of an artifact when it is whole: somebody may be
    reading that one, and a kill may come.

    Its folder is made. MLflow lists no file of the new one's name.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=".artifact.uploading.")
    os.close(handle)
    try:
        yield Path(name)
        os.chmod(name, 0o644)  # mkstemp makes it the owner's alone
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise


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
