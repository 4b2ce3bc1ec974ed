"""The live table: what it shows, in plain lines and on a terminal of any width."""

from __future__ import annotations

import io
import time
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from scored_trial import record

from cluster.resources import Node
from tuner.live import LiveTable

HERE = Path("checkpoint")


def scores(loss: float) -> dict[str, float]:
    return {
        "L": loss,
        "J": 0.3,
        "recognisability": 0.7,
        "coverage": 0.4,
        "copy_share": 0.05,
        "complete": 1.0,
    }


def play(table: LiveTable) -> None:
    """Trial 0 was paused at rung 1 of 3, trial 1 finished, trial 2 failed, trial 3 runs."""
    for number in range(4):
        table.trial_started(number, "paper" if number == 0 else "", {}, {"width": 8 * number})
    table.rung_reached(0, 0, scores(0.5), [], HERE, "pause")
    table.trial_ended(0, "PRUNED", "asha: rung 0")
    for rung in range(3):
        decision = "done" if rung == 2 else "continue"
        table.rung_reached(1, rung, scores(2.0 - rung / 4), [], HERE, decision)
    table.trial_ended(1, "COMPLETE", "")
    table.trial_ended(2, "FAIL", "diverged: critic loss is nan")
    table.tick()


def make(out: io.StringIO, *, width: int = 100, **options: object) -> LiveTable:
    console = Console(file=out, width=width, **options)
    ends = time.time() + 90.5
    return LiveTable(trials=12, slots=2, rungs=3, deadline=ends, study="a_study", console=console)


def rendered(table: LiveTable, width: int) -> str:
    out = io.StringIO()
    Console(file=out, width=width).print(table.render())
    return out.getvalue()


def numbers(text: str) -> list[str]:
    """Of the trials in a table: two lines are above its head, two below its last row."""
    return [line.split()[0] for line in text.splitlines()[4:-2]]


def test_without_a_terminal_every_event_is_one_plain_line():
    out = io.StringIO()
    with make(out, width=40) as table:
        play(table)
    lines = out.getvalue().splitlines()
    assert "\x1b" not in out.getvalue()
    assert len(lines) == 4 + 1 + 1 + 3 + 1 + 1
    assert lines[0].endswith("trial 0 started: paper's settings")
    assert lines[4].endswith(
        "trial 0 rung 1/3: L .50, J .30, recognisability .70, coverage .40, copy share .05 -> pause"
    )
    assert lines[5].endswith("trial 0 stopped: asha paused it at rung 1")
    assert lines[-1].endswith("trial 2 failed: diverged: critic loss is nan")


@pytest.mark.parametrize(
    ("rung", "place", "cell"), [(0, "before rung 1", "0/3"), (1, "between rung 1 and 2", "1/3")]
)
def test_a_trial_that_the_clock_cut_has_not_come_to_the_next_rung(rung, place, cell):
    out = io.StringIO()
    with make(out) as table:
        table.trial_started(0, "", {}, {"width": 8})
        table.rung_reached(0, rung, scores(0.5) | {"complete": 0.0}, [], HERE, "done")
        assert cell in rendered(table, 100)
    (told,) = (line for line in out.getvalue().splitlines() if f"trial 0 {place}: L .50" in line)
    assert told.endswith("-> cut")


def test_quiet_says_nothing():
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, quiet=True)
    with LiveTable(trials=1, slots=1, rungs=3, deadline=0.0, console=console) as table:
        play(table)
        table.say("nothing")
    assert out.getvalue() == ""


def test_a_cluster_that_grows_is_told_of_and_planned_with():
    out = io.StringIO()
    with make(out) as table:
        play(table)
        table.cluster_changed([Node(cpus=2), Node(cpus=2)], 4)
        # 3 of 12 are over, and the other 9 take half of their time
        shown = rendered(table, 120)
        assert "3 of about 21 trials over" in shown
        assert "1 of 4 slots busy" in shown
    told = "The cluster has 2 nodes, 4 CPUs, 0 GPUs now: 4 trials side by side, about 21 in all\n"
    assert told in out.getvalue()


@pytest.mark.parametrize("terminal", [False, True])
def test_a_rung_that_foretells_too_little_is_told_of_while_the_search_runs(terminal):
    out = io.StringIO()
    with make(out, width=40, force_terminal=terminal) as table:
        table.rung_doubted(0, 0.104)
    assert (
        "Rung 1 foretells the last rung badly (correlation .10, the noise of scores allowed for): "
        "trials go on to rung 2 before any is stopped\n"
    ) in out.getvalue()


def test_running_trials_come_first_then_the_furthest_and_the_best_is_marked():
    table = make(io.StringIO())
    play(table)
    # 3 runs, 1 finished, 0 was stopped at rung 1 (its lower L does not compare), 2 failed
    assert numbers(rendered(table, 100)) == ["3", "*1", "0", "2"]


def test_around_the_table_stand_the_phase_the_time_the_best_and_what_became_of_trials():
    table = make(io.StringIO())
    lines = rendered(table, 120).splitlines()
    assert lines[0].rstrip() == "search · 1:30 left · 0 of 2 slots busy · a_study"
    assert lines[1].startswith("best so far: none yet")
    play(table)
    table.rung_reached(3, 0, scores(0.5), [], HERE, "pause")
    head, best, *_, counts, lately = map(str.rstrip, rendered(table, 120).splitlines())
    assert head == "search · 1:30 left · 0 of 2 slots busy · a_study"
    assert best == "best so far: trial 1, L 1.50, J .30 at rung 3/3, w8"
    each = "1 done, 1 stopped, 1 failed"
    assert counts == f"3 of about 12 trials over · {each} · paused 1 at rung 1"
    assert lately == (
        "lately: trial 3 paused at rung 1, L .50; trial 2 failed: diverged: critic loss is nan; "
        "trial 1 done; trial 0 stopped: a…"
    )
    table.trial_promoted(3)
    shown = rendered(table, 120)
    assert "1 of 2 slots busy" in shown
    assert "paused 1 at" not in shown


@pytest.mark.parametrize(("width", "height"), [(80, 24), (60, 20), (40, 12), (30, 8)])
def test_all_of_it_fits_the_terminal_without_scrolling(width, height):
    table = make(io.StringIO(), width=width, height=height)
    for number in range(40):
        table.trial_started(number, "", {}, {"architecture": "figr_dcgan", "width": number})
        table.rung_reached(number, 0, scores(float(number)), [], HERE, "pause")
    lines = rendered(table, width).splitlines()
    assert len(lines) < height  # the last line is the cursor's
    assert all(len(line) <= width for line in lines)
    assert lines[0].startswith("search · 1:30 left")
    assert lines[-2].startswith("0 of about 12 trials over")
    assert len(numbers("\n".join(lines))) == min(14, height - 7)


def test_after_a_resume_the_table_knows_what_earlier_sessions_did():
    out = io.StringIO()
    told = [
        replace(record(n, (1e9, loss), state=state), config={"width": 8})
        for n, (loss, state) in enumerate([(0.5, "COMPLETE"), (0.1, "FAIL"), (0.7, "RUNNING")])
    ]
    with make(out, width=120) as table:
        table.recall([*told, record(3, state="WAITING")])
        assert out.getvalue() == ""
        shown = rendered(table, 120)
        assert "2 of about 12 trials over · 1 done, 1 failed" in shown
        assert "0 of 2 slots busy" in shown
        assert numbers(shown) == ["*0", "2", "1"]
        table.trial_started(2, "", {}, {"width": 8})
        assert "1 of 2 slots busy" in rendered(table, 120)


def test_time_left_never_turns_negative():
    table = LiveTable(trials=1, slots=1, rungs=1, deadline=0.0, console=Console(file=io.StringIO()))
    assert "0:00 left" in rendered(table, 80)


@pytest.mark.parametrize("width", [30, 48, 58, 64, 72, 80, 120])
def test_narrow_terminals_lose_columns_and_never_digits(width):
    table = make(io.StringIO(), width=width)
    play(table)
    text = rendered(table, width)
    assert all(len(line) <= width for line in text.splitlines())
    assert "1.50" in text
    assert ".05" in text
    assert ("recog." in text) == (width >= 72)
    assert ("cover." in text) == (width >= 48)


def test_at_most_so_many_rows_are_shown():
    table = make(io.StringIO(), height=100)
    for number in range(100):
        table.trial_started(number, "", {}, {"width": number})
        table.rung_reached(number, 0, scores(float(number)), [], HERE, "pause")
    shown = rendered(table, 100)
    assert len(numbers(shown)) == 14
    assert "paused 100 at rung 1" in shown


def test_on_a_terminal_the_table_is_drawn_and_removed_and_messages_stay():
    out = io.StringIO()
    with make(out, force_terminal=True) as table:
        play(table)
        table.say("the tracking store does not answer")
        time.sleep(0.6)  # one refresh
    text = out.getvalue()
    assert "paper's settings" in text
    assert "the tracking store does not answer" in text
    assert "\x1b[2K" in text  # lines of the table erased


def test_parameters_are_not_read_as_markup():
    table = make(io.StringIO())
    table.trial_started(0, "", {}, {"choice": "[red]x[/red]"})
    assert "[red]x" in rendered(table, 100)
