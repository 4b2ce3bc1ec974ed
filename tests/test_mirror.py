"""A bucket and its mirror: here the bucket is a folder, which the same code reads and writes."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from toy_pipeline import ToyConfig, toy_space

from trainables.errors import UserError
from tuner import logs, places, status, stop, studies
from tuner import mirror as module
from tuner.exit_codes import CANNOT_BE_MET
from tuner.glance import glance
from tuner.hold import STOP
from tuner.journal import Journal
from tuner.mirror import LEASE, LEASE_SECONDS, Mirror
from tuner.places import address_of, bring, drop, local_copy


@pytest.fixture(autouse=True)
def _no_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the last one, when the study is let go of; and nobody to settle with."""
    monkeypatch.setattr(module, "BEAT_SECONDS", 3600.0)
    monkeypatch.setattr(module, "SETTLE_SECONDS", 0.0)


@pytest.fixture
def bucket(tmp_path: Path) -> Path:
    made = tmp_path / "bucket"
    made.mkdir()
    return made


class Machine:
    """One with a mirror of the bucket."""

    def __init__(self, bucket: Path, name: str) -> None:
        self.mirror = Mirror(bucket.as_uri(), bucket.parent / name)
        self.folder = bucket.parent / name

    def journal(self) -> Journal:
        return Journal(self.folder, "toys")

    def work(self, **files: str) -> None:
        """A session: one trial more, and other files."""
        self.mirror.pull()
        with self.journal() as journal, self.mirror.holding(journal):
            journal.ask(toy_space, ToyConfig())
            for name, content in files.items():
                path = journal.folder / name.replace("__", "/").replace("_json", ".json")
                path.parent.mkdir(exist_ok=True)
                path.write_text(content)

    def trials(self) -> int:
        with self.journal() as journal:
            return len(journal.records())


@pytest.fixture
def machines(bucket: Path) -> Iterator[list[Machine]]:
    return [Machine(bucket, name) for name in ("first", "second")]


def test_a_study_goes_on_where_another_machine_left_it(
    machines: list[Machine], bucket: Path
) -> None:
    first, second = machines
    files = {"champion__grid": "png", "champion.new__grid": "half", "session_01__state": "cp"}
    first.work(result_json="{}", **files)
    there = {str(path.relative_to(bucket / "toys")) for path in bucket.glob("toys/**/*")}
    assert there == {"journal.log", "result.json", "champion", "champion/grid"}
    second.mirror.pull()
    assert second.trials() == 1
    assert (second.folder / "toys/champion/grid").read_text() == "png"
    (second.folder / "toys/result.json").rename(second.folder / "toys/result.1.json")
    second.work()
    assert not (bucket / "toys/result.json").exists()  # the study goes on
    first.mirror.pull()
    assert first.trials() == 2
    assert not (first.folder / "toys/result.json").exists()
    assert (first.folder / "toys/result.1.json").exists()


def test_what_a_killed_driver_could_not_write_is_kept_where_it_ran(
    machines: list[Machine],
) -> None:
    first, _ = machines
    first.work()
    with first.journal() as journal:
        journal.ask(toy_space, ToyConfig())  # and then the power goes
    first.mirror.pull()
    assert first.trials() == 2


def test_a_study_has_one_driver(machines: list[Machine], bucket: Path) -> None:
    first, second = machines
    first.work()
    second.mirror.pull()
    with first.journal() as journal, first.mirror.holding(journal):
        refused = pytest.raises(UserError, match=r"is running already, as process \d+ on")
        with refused, second.journal() as other, second.mirror.holding(other):
            pass
        lease = json.loads((bucket / "toys" / LEASE).read_text())
        assert lease["holder"] == first.mirror._holder
    assert not (bucket / "toys" / LEASE).exists()


def test_of_two_that_find_a_study_free_at_once_one_has_it(
    machines: list[Machine], bucket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both look before either writes."""
    monkeypatch.setattr(module, "SETTLE_SECONDS", 0.3)
    looked = threading.Barrier(2)
    look = Mirror._lease

    def slow(self: Mirror, place: str) -> dict[str, Any] | None:
        lease = look(self, place)
        if lease is None:
            looked.wait(10)
        return lease

    monkeypatch.setattr(Mirror, "_lease", slow)
    refused: list[str] = []
    having: list[Mirror] = []

    def take(machine: Machine) -> None:
        try:
            machine.mirror._take(f"{machine.mirror._root}/toys", machine.folder / "toys")
            having.append(machine.mirror)
        except UserError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=take, args=(machine,)) for machine in machines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(having) == len(refused) == 1
    assert "is running already, as process" in refused[0]
    assert json.loads((bucket / "toys" / LEASE).read_text())["holder"] == having[0]._holder


@pytest.mark.parametrize(
    "said", ["", "[]", '{"holder": 7}', '{"holder": "a b c", "since": 1, "when": 1}']
)
def test_a_lease_that_nobody_of_ours_has_written_is_nobodys(
    machines: list[Machine], bucket: Path, said: str
) -> None:
    first, _ = machines
    first.work()
    (bucket / "toys" / LEASE).write_text(said)
    first.mirror.look("toys")
    first.work()
    assert first.trials() == 2


def test_a_driver_without_a_sign_of_life_loses_its_study(
    machines: list[Machine], bucket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = machines
    with first.journal() as journal:
        journal.ask(toy_space, ToyConfig())
        with first.mirror.holding(journal):
            first.mirror._push(str(bucket / "toys"), journal.folder)
            now = time.time()
            monkeypatch.setattr(time, "time", lambda: now + LEASE_SECONDS + 1)
            second.work()
            journal.ask(toy_space, ToyConfig())
            journal.ask(toy_space, ToyConfig())
    second.mirror.pull()
    assert second.trials() == 2  # what the first one wrote since then is lost, and breaks nothing


def test_a_study_that_changed_since_it_was_looked_at_is_not_gone_on_with(
    machines: list[Machine], bucket: Path
) -> None:
    first, second = machines
    first.work()
    second.mirror.pull()
    first.work()
    refused = pytest.raises(UserError, match="was gone on with by another machine meanwhile")
    with refused, second.journal() as journal, second.mirror.holding(journal):
        pass
    assert not (bucket / "toys" / LEASE).exists()


def test_a_study_that_runs_here_is_not_written_over(machines: list[Machine]) -> None:
    first, second = machines
    first.work()
    second.work()
    with first.journal():
        before = (first.folder / "toys/journal.log").read_bytes()
        first.mirror.pull()
        assert (first.folder / "toys/journal.log").read_bytes() == before


def test_a_bucket_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be read and written") as caught:
        Mirror((tmp_path / "file").as_uri(), tmp_path / "mirror")
    assert "\n" not in str(caught.value)


def test_folders_of_a_bucket_that_are_named_as_no_study_is_are_passed_over(
    machines: list[Machine], bucket: Path
) -> None:
    first, second = machines
    first.work()
    (bucket / "toys").rename(bucket / "-toys")  # a bucket's may be named ".."
    second.mirror.pull()
    assert not second.folder.exists()


@pytest.mark.parametrize("lacking", ["_files", "_read"])
def test_a_bucket_that_may_be_written_and_not_listed_or_read_is_one_line(
    lacking: str, machines: list[Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = machines
    first.work()

    def denied(_self: Mirror, _place: str) -> None:
        raise OSError("AWS Error ACCESS_DENIED during ListObjectsV2 operation")

    monkeypatch.setattr(Mirror, lacking, denied)
    for asked in (second.mirror.pull, lambda: second.mirror.look("toys")):
        with pytest.raises(UserError, match=r"cannot be read and written \(access is denied\)"):
            asked()


def test_a_bucket_without_credentials_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_address: str) -> None:
        raise OSError(
            "google::cloud::Status(UNAVAILABLE: Retry policy exhausted, with a last message of "
            "Could not create a OAuth2 access token to authenticate the request.\n" + 99 * "words "
        )

    monkeypatch.setattr(module, "opened", refused)
    line = r"gs://bucket/runs cannot be read and written \(there are no credentials\): .* or give"
    with pytest.raises(UserError, match=line) as caught:
        Mirror("gs://bucket/runs", tmp_path)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_in_a_bucket_has_a_copy_of_what_is_shown(bucket: Path, tmp_path: Path) -> None:
    there = bucket / "toys/session_01/trial_0000/checkpoint_000000"
    there.mkdir(parents=True)
    for name in ("grid.png", "config.json", "state.pt"):
        (there / name).write_text(name)
    address = address_of(str(there), (bucket / "toys").as_uri())
    assert address == there.as_uri()
    local = bring(address, tmp_path / "here")
    assert local == tmp_path / "here/session_01/trial_0000/checkpoint_000000"
    assert {path.name for path in local.iterdir()} == {"grid.png", "config.json"}
    drop(address, "state.pt")
    drop(address, "state.pt")
    assert not (there / "state.pt").exists()


def test_what_was_cut_while_it_was_fetched_is_fetched_again(
    bucket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the network, or by a kill."""
    there = bucket / "toys/session_01/trial_0000/checkpoint_000000"
    there.mkdir(parents=True)
    for name in places.SHOWN:
        (there / name).write_text(name)
    copy = places.copy
    for cut in (OSError("the bucket is away"), KeyboardInterrupt()):

        def half(store: Any, place: str, path: Path, cut: BaseException = cut) -> None:
            copy(store, place, path)
            if path.name == places.SHOWN[1]:
                raise cut

        monkeypatch.setattr(places, "copy", half)
        with suppress(KeyboardInterrupt):
            assert not bring(there.as_uri(), tmp_path / "here").exists()
        monkeypatch.setattr(places, "copy", copy)
    local = bring(there.as_uri(), tmp_path / "here")
    assert {path.name for path in local.iterdir()} == set(places.SHOWN)
    assert list(local.parent.iterdir()) == [local]


def test_many_checkpoints_are_brought_at_once(bucket: Path, tmp_path: Path) -> None:
    named = []
    for number in range(20):
        there = bucket / f"toys/session_01/trial_{number:04d}/checkpoint_000000"
        there.mkdir(parents=True)
        (there / "grid.png").write_text(str(number))
        named.append(there.as_uri())
    told: list[str] = []
    places.bring_all([*named, "/a/folder"], tmp_path / "here", told.append)
    assert told[-1] == "20 of 20 checkpoints looked up in the bucket"
    grids = (tmp_path / "here").glob("session_01/*/checkpoint_000000/grid.png")
    assert sorted(int(path.read_text()) for path in grids) == list(range(20))
    places.bring_all(named, tmp_path / "here", lambda _line: pytest.fail("they are here"))


def test_a_checkpoint_in_a_folder_is_where_it_is(tmp_path: Path) -> None:
    place = str(tmp_path / "session_01/trial_0000/checkpoint_000000")
    assert address_of(place, None) == place
    assert local_copy(place, Path("elsewhere")) == bring(place, Path("elsewhere")) == Path(place)
    assert address_of("b/toys/session_01/t/c", "s3://b/toys?region=x") == (
        "s3://b/toys/session_01/t/c?region=x"
    )


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machines have names of their own."""
    names = {"first": "one", "second": "two"}
    here = Mirror.__init__

    def made(self: Mirror, address: str, folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module.socket, "gethostname", lambda: names[folder.name])
            here(self, address, folder)

    monkeypatch.setattr(Mirror, "__init__", made)


@pytest.mark.usefixtures("elsewhere")
def test_a_study_that_runs_elsewhere_is_looked_at_and_stopped_through_its_bucket(
    bucket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (Machine(bucket, name) for name in ("first", "second"))
    asked: list[None] = []
    monkeypatch.setattr(module, "_interrupt", lambda: asked.append(None))
    with first.journal() as journal:
        journal.ask(toy_space, ToyConfig())
        with first.mirror.holding(journal):
            first.mirror._push(first.mirror._root + "/toys", journal.folder)
            second.mirror.look("toys")
            seen = glance(second.folder / "toys")
            assert (seen.state, len(seen.records)) == ("running", 1)
            assert seen.holder is not None
            assert str(seen.holder).endswith(" on one")
            second.mirror.look("toys")  # once more
            assert glance(second.folder / "toys").holder == seen.holder
            second.mirror.ask_to_stop("toys")
            for _ in range(2):  # a request is heeded once
                first.mirror._heed_request(first.mirror._root + "/toys")
            assert asked == [None]
            journal.ask(toy_space, ToyConfig())
            (journal.folder / "result.json").write_text("{}")
    second.mirror.look("toys")
    seen = glance(second.folder / "toys")
    assert (seen.state, len(seen.records), seen.holder) == ("finished", 2, None)
    assert {path.name for path in (bucket / "toys").iterdir()} == {"journal.log", "result.json"}


def test_a_result_that_came_after_its_journal_was_looked_at_is_not_missed(
    machines: list[Machine], bucket: Path
) -> None:
    first, second = machines
    first.work()
    second.mirror.look("toys")
    (bucket / "toys/result.json").write_text("{}")
    second.mirror.look("toys")
    assert (second.folder / "toys/result.json").exists()


def test_a_request_that_was_meant_for_an_earlier_session_is_not_heeded(
    machines: list[Machine], bucket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = machines
    monkeypatch.setattr(module, "_interrupt", lambda: pytest.fail("it was interrupted"))
    with first.journal() as journal, first.mirror.holding(journal):
        (bucket / "toys" / STOP).write_text(second.mirror._holder)
        first.mirror._heed_request(first.mirror._root + "/toys")


def test_the_commands_read_a_bucket(
    machines: list[Machine], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = machines
    first.work(output_log="what it said\n")
    place = (second.folder, first.mirror.address)
    monkeypatch.setattr(studies, "parse_storage", lambda _text: place)
    assert status.main(["toys", "--storage", "s3://bucket/runs"]) == 0
    assert "interrupted" in capsys.readouterr().out
    assert stop.main(["toys", "--storage", "s3://bucket/runs"]) == CANNOT_BE_MET
    assert "is not running: it is interrupted" in capsys.readouterr().err
    assert logs.main(["none", "--storage", "s3://bucket/runs"]) == CANNOT_BE_MET
    assert "There are: toys." in capsys.readouterr().err
    assert logs.main(["../toys", "--storage", "s3://bucket/runs"]) == CANNOT_BE_MET
    assert "STUDY must be a name in s3://bucket/runs" in capsys.readouterr().err
