"""A study through Ray, killed and resumed."""

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from tuner.journal import FAILURE, Journal
from tuner.known_points import trial_seed
from tuner.printed import printed_files
from tuner.recorder import RETRIES


def launch(options):
    return subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("toy_study.py")), json.dumps(options)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # signals reach the driver alone
    )


def wait_for(process, text, count):
    """Read lines until `text` came `count` times."""
    seen = 0
    for line in process.stdout:
        seen += text in line
        if seen == count:
            return
    pytest.fail(f"the driver ended before {text!r} came {count} times")


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(300)
def test_a_study_survives_the_death_of_its_driver(tmp_path):
    """kill -9 amid the study, then Ctrl-C, then to the end: nothing lost, nothing done twice."""
    options = {
        "storage": str(tmp_path),
        "study": "s",
        "trials": 10,
        "slots": 2,
        "seconds": 0.3,
        "troubles": ["diverge", "die", "raise"],
    }
    with launch(options) as killed:
        wait_for(killed, " rung ", 4)
        killed.kill()

    with launch(options) as interrupted:
        wait_for(interrupted, " rung ", 3)
        asked = time.monotonic()
        interrupted.send_signal(signal.SIGINT)
        assert "interrupted" in interrupted.stdout.read()
        assert time.monotonic() - asked < 20
    assert interrupted.returncode == 0

    with launch(options) as finished:
        assert "finished" in finished.stdout.read()
    assert finished.returncode == 0

    with Journal(tmp_path, "s") as journal:
        records = journal.records()
    assert len(records) == 10
    assert {r.state for r in records} == {"COMPLETE", "PRUNED", "FAIL"}
    ends = {r.label: (r.state, r.reason) for r in records if r.label}
    assert ends["best"][0] in ("COMPLETE", "PRUNED")
    assert ends["diverge"] == ("FAIL", "diverged: loss went through the roof")
    assert ends["raise"] == ("FAIL", "crashed: KeyError: 'a bug'")
    assert ends["die"][0] in ("COMPLETE", "PRUNED")  # retried in a new process
    numbers = {r.label: r.number for r in records}
    failed = records[numbers["raise"]]
    crashes = [failed.attrs[f"{FAILURE}{n + 1}"] for n in range(RETRIES + 1)]
    assert all(text.endswith("KeyError: 'a bug'\n") and "\x1b" not in text for text in crashes)
    printed = [path.read_text() for path in printed_files(tmp_path / "s", numbers["best"])]
    assert "rung 0 is reached\n" in "".join(printed)
    assert all(r.reason.startswith("asha: rung") for r in records if r.state == "PRUNED")
    for r in records:
        assert all((Path(rung.checkpoint) / "state.pt").is_file() for rung in r.rungs)

    steps = Counter((tmp_path / "steps.log").read_text().split("\n")[:-1])
    journalled = {
        f"{trial_seed(0, r.number)} {rung.rung}": rung for r in records for rung in r.rungs
    }
    assert set(journalled) <= set(steps)
    # A rung is run twice only where a session broke off before its checkpoint was journalled:
    # two sessions broke off with two slots each.
    assert sum(count - 1 for count in steps.values()) <= 4


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(300)
def test_out_of_memory_on_a_shared_card_is_tried_again_with_fewer_neighbours(tmp_path):
    """On a simulated card of four trials: one runs out of memory once, the other always."""
    options = {
        "storage": str(tmp_path),
        "study": "s",
        "trials": 10,
        "slots": 4,
        "gpus": 1,
        "seconds": 0.3,
        "troubles": ["crowd", "memory"],
    }
    with launch(options) as finished:
        assert "finished" in finished.stdout.read()
    assert finished.returncode == 0
    with Journal(tmp_path, "s") as journal:
        records = journal.records()
    ends = {r.label: r for r in records if r.label}
    assert ends["crowd"].state in ("COMPLETE", "PRUNED")
    assert ends["crowd"].attrs["gpus"] == 0.5
    assert (ends["memory"].state, ends["memory"].reason) == ("FAIL", "out of memory")
    assert ends["memory"].attrs["gpus"] == 1.0
    others = [r for r in records if r.label not in ("crowd", "memory")]
    assert all(r.state in ("COMPLETE", "PRUNED") and "gpus" not in r.attrs for r in others)
