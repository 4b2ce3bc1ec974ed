"""The report's page and its twin: whole, safe, and made of any study, whatever became of it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_looking_on import enters, running, study
from test_result import result, trial

from trainables.errors import UserError
from trainables.grid import GRID
from tuner import ending, plots, report, report_page
from tuner.champion_folder import Samples
from tuner.journal import Journal
from tuner.pictures import compared, copying_of, grid_of
from tuner.plots import plots_of
from tuner.report_page import report_on, write_report
from tuner.result import FrontTrial, Pareto, Rung, StudyResult

__all__ = ["study"]  # a fixture
HOSTILE = "<script>alert(1)</script>[x](javascript:y)|`</title>\"'&<img src=http://h/x>"


class Page(HTMLParser):
    """What a page is made of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.scripts: list[str] = []
        self.words = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "link", "br"):
            self.open.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        elif "style" not in self.open:
            self.words += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def many(folder: Path, **changes: Any) -> StudyResult:
    """A study with enough trials to be compared by their settings."""
    trials = [
        trial(
            number,
            params={"lr": 10.0**-number, "net": "ab"[number % 2], "steps": number + 1},
            rungs=tuple(
                Rung(
                    rung=k,
                    train_flops=3.0**k * 1e12,
                    metrics=trial(0).rungs[0].metrics | {"L": 3.0 - k - number / 10},
                )
                for k in range(2)
            ),
        )
        for number in range(8)
    ]
    return result(folder, trials=tuple(trials), **changes)


def written(made: StudyResult, **more: Any) -> tuple[Page, str]:
    page = write_report(made, (), storage="runs", **more)
    return Page(page.read_text("utf-8")), page.with_name("report.md").read_text("utf-8")


def drawn(folder: Path) -> None:
    """A champion's files, of 2 episodes of 5 samples."""
    rng = np.random.default_rng(0)
    champion = folder / "champion"
    champion.mkdir(parents=True)
    shots = rng.integers(0, 255, (2, 4, 1, 8, 8), np.uint8)
    samples = rng.integers(0, 255, (2, 5, 1, 8, 8), np.uint8)
    samples[1, 3] = shots[1, 2]
    np.savez(champion / "samples.npz", shots=shots, samples=samples, copy_thresholds=[0.1, 0.1])
    Image.fromarray(rng.integers(0, 255, (20, 40, 3), np.uint8)).save(champion / "grid.png")


def test_the_page_is_whole_and_loads_nothing(tmp_path: Path) -> None:
    drawn(tmp_path)
    made = many(tmp_path)
    assert made.best is not None
    made = replace(made, best=replace(made.best, grid="champion/grid.png"))
    page, twin = written(made)
    assert page.open == []
    assert page.all("html") == [{"lang": "en"}]
    for landmark in ("header", "main", "nav", "footer", "h1"):
        assert len(page.all(landmark)) == 1
    assert all(image["alt"] for image in page.all("img"))
    assert all(image["src"].startswith("data:image/png;base64,") for image in page.all("img"))
    assert all(head["scope"] in ("col", "row") for head in page.all("th"))
    places = {a[name] for _, a in page.tags for name in ("src", "href") if a.get(name)}
    assert all(place.startswith(("data:", "#")) for place in places)
    anchors = {a["id"] for _, a in page.tags if "id" in a}
    assert {place[1:] for place in places if place.startswith("#")} <= anchors
    policy = next(m["content"] for m in page.all("meta") if "http-equiv" in m)
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert policy.count("'sha256-") == 2
    assert "unsafe-eval" not in policy
    assert len(page.scripts[-1]) < 2000 < len(page.scripts[-2]), "plotly's script once, and ours"
    assert sum(len(script) > 1_000_000 for script in page.scripts) == 1
    assert "won: J 0.39" in page.words
    assert "counts as a copy" in page.words
    assert "![In every block four shots on top, and below the line twelve" in twin
    assert "(champion/grid.png)" in twin


def test_the_pictures_of_a_finalist_are_told_to_be_of_the_search(tmp_path: Path) -> None:
    grid = tmp_path / "trial-1/rung-1" / GRID
    grid.parent.mkdir(parents=True)
    Image.new("RGB", (40, 20), "white").save(grid)
    page, twin = written(result(tmp_path))
    note = "in the finals, trained again, on fresh episodes"
    assert re.search(rf"{note}\s+Its pictures in the search:", page.words)
    assert re.search(rf"{note}\.\n.*\n+Its pictures in the search:\n\n!\[", twin)
    assert page.words.count("Its pictures") == 1, "of the others there are none"


def test_figures_are_of_every_trial_and_setting(tmp_path: Path) -> None:
    page, twin = written(many(tmp_path))
    figures = [json.loads(script) for script in page.scripts[:-2]]
    assert len(figures) == len(page.all("figure")) == 1 + 1 + 3 + 1
    curves = figures[0]
    assert [note["text"] for note in curves["layout"]["annotations"]] == ["rung 1", "rung 2"]
    assert curves["layout"]["annotations"][0]["x"] == pytest.approx(3.0)  # of 1000 GFLOP
    texts = [t for trace in curves["data"] for t in trace["text"] if t]
    assert len({text.partition(" ·")[0] for text in texts}) == 8
    for name in ("lr", "net", "steps"):
        assert f"L at the first rung by {name}" in page.words
        assert re.search(rf"^\| {name} \| 0\.\d\d \|$", twin, re.M)


def test_tables_of_the_twin_are_tables(tmp_path: Path) -> None:
    _, twin = written(result(tmp_path))
    lines = twin.splitlines()
    heads = [n for n, line in enumerate(lines) if re.fullmatch(r"\|(---:?\|)+", line)]
    assert len(heads) > 5
    for head in heads:
        assert lines[head - 2] == ""
        assert lines[head - 1].count("|") == lines[head].count("|") == lines[head + 1].count("|")
    for n, line in enumerate(lines):
        if line.startswith(("#", "!", "**")):
            assert lines[n - 1 : n] in ([], [""]), line


def test_what_a_study_says_is_text(tmp_path: Path) -> None:
    made = many(tmp_path)
    assert made.best is not None
    hostile = replace(
        made,
        study=HOSTILE,
        experiment=HOSTILE,
        verdict=HOSTILE,
        trials=tuple(
            replace(t, label=HOSTILE, params={HOSTILE: f"{HOSTILE}{t.number % 2}", "lr": t.number})
            for t in made.trials
        ),
        best=replace(made.best, label=HOSTILE, params={HOSTILE: HOSTILE}),
        data=replace(made.data, name=HOSTILE, source=HOSTILE, stand_in=True),
        commands={"searched_by": HOSTILE, "mlflow_page": "javascript:alert(1)", "x": HOSTILE},
        versions={HOSTILE: HOSTILE},
    )
    page, twin = written(hostile)
    assert {tag for tag, _ in page.tags if tag in ("iframe", "object", "a", "img")} == {"a"}
    assert len(page.scripts) == 2 + len(page.all("figure"))
    assert not any("alert(1)</script" in script for script in page.scripts)
    assert all("<script>alert" not in figure for figure in page.scripts[:-2])
    assert page.words.count(HOSTILE) > 8
    assert all(a["href"].startswith("#") for a in page.all("a"))
    outside = [line for line in twin.splitlines() if not line.startswith("    ")]
    assert not any("<" in line or "[x](" in line for line in outside)


@pytest.mark.parametrize("outcome", ["finished", "interrupted", "nothing succeeded"])
def test_a_study_without_a_score_has_a_page(tmp_path: Path, outcome: Any) -> None:
    made = result(tmp_path, outcome=outcome, best=None, test=None, reference=None, gate=None)
    page, twin = written(replace(made, trials=made.trials[3:], null_baselines={}, rematch=None))
    assert page.scripts == [], "no figure, no script"
    assert page.all("figure") == []
    assert "failed" in page.words
    assert "failed" in twin
    page, _ = written(replace(made, trials=(), null_baselines={}, rematch=None))
    assert page.open == []


def test_several_objectives_have_their_fronts(tmp_path: Path) -> None:
    front = (FrontTrial(number=7, values={"L": 1.25, "coverage": 0.4, "copy_share": 0.05}),)
    objectives = {"L": "minimize", "coverage": "maximize", "copy_share": "minimize"}
    made = many(tmp_path, pareto=Pareto(objectives=objectives, front=front))
    assert [plot.title for plot in plots_of(made).pareto] == [
        "L and coverage: the Pareto front",
        "L and copy_share: the Pareto front",
    ]
    assert "Trade-offs" in written(made)[0].words


def test_trials_that_the_clock_cut_before_the_first_rung_are_not_compared(tmp_path: Path) -> None:
    made = many(tmp_path)
    cut = replace(made.trials[0], rungs=(replace(made.trials[0].rungs[0], complete=False),))
    found = plots_of(replace(made, trials=(cut, *made.trials[1:])))
    assert found.parallel is not None
    assert len(found.parallel.figure["data"]) == 7
    assert max(found.slices[0].figure["data"][0]["y"]) == 2.9, "trial 0 had 3.0"


def test_the_page_counts_the_trials_that_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "That is 8 trials, 2 of them in the best quarter" in written(many(tmp_path))[0].words
    for module in (plots, report_page):
        monkeypatch.setattr(module, "MOST_TRIALS", 6)
    told = "That is 6 trials of the 6 best, 1 of them in the best quarter"
    assert told in written(many(tmp_path))[0].words


def test_few_or_equal_trials_are_not_compared_by_their_settings(tmp_path: Path) -> None:
    assert plots_of(result(tmp_path)).importance is None
    alike = tuple(trial(number) for number in range(9))
    assert plots_of(result(tmp_path, trials=alike)).importance is None


def test_samples_are_seen_beside_their_nearest_shots() -> None:
    shots = np.zeros((1, 4, 1, 8, 8), np.uint8)
    for k in range(4):
        shots[0, k, 0, 2 + k] = 255
    samples = np.stack([shots[0, 3], shots[0, 1] // 2, np.zeros_like(shots[0, 0])])[None]
    # The empty picture is nearest to a shot of which two of eight pixels are moved out.
    kept = Samples(shots=shots, samples=samples, copy_thresholds=np.array([0.1]))
    found = compared(kept)
    assert [pair.copied for pair in found.closest] == [True, False, False]
    assert [pair.distance for pair in found.closest] == pytest.approx([0, 0.25, 0.75], abs=0.01)
    assert (found.sheets[0].samples, found.sheets[0].copies) == (3, 1)
    assert compared(replace(kept, copy_thresholds=None)).closest[0].copied is None


def test_files_outside_of_the_study_or_damaged_are_not_shown(tmp_path: Path) -> None:
    drawn(tmp_path / "other")
    mine = tmp_path / "mine"
    mine.mkdir()
    assert grid_of(mine / "../other/champion/grid.png", mine) is None
    assert copying_of(mine / "../other/champion", mine) is None
    (mine / "grid.png").write_bytes(b"\x89PNG\r\n")
    (mine / "samples.npz").write_bytes(b"PK")
    assert grid_of(mine / "grid.png", mine) is None
    assert copying_of(mine, mine) is None
    np.savez(mine / "samples.npz", shots=np.zeros(3), samples=np.zeros(3))
    assert copying_of(mine, mine) is None


@pytest.fixture
def begun(study: Path) -> Path:
    with Journal(study.parent, study.name) as journal:
        journal.set_attr(
            "data", {"name": "omniglot", "stand_in": False, "fingerprint": "0", "source": "/d"}
        )
    return study


def test_a_study_that_is_not_over_has_a_report(
    begun: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report.main([str(begun)]) == 0
    assert str(begun / "report.html") in capsys.readouterr().out
    words = Page((begun / "report.html").read_text("utf-8")).words
    assert "interrupted before its end. Go on with: python -m tuner.launch" in words
    assert "leads so far: J 0.50, L 0.50" in words
    assert "paused" in words
    with running(begun):
        enters(begun, "search", 100.0)
        page = report_on(begun, storage="runs", out=begun.parent / "elsewhere")
    assert "This study is running" in Page(page.read_text("utf-8")).words


def test_a_result_that_cannot_be_read_is_told_from_the_journal(begun: Path) -> None:
    (begun / "result.json").write_text('{"format": 1}', encoding="utf-8")
    words = Page(report_on(begun, storage="runs").read_text("utf-8")).words
    assert "since the result cannot be read" in words
    assert "leads so far" in words


def test_bad_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main(["nothing", "--storage", str(tmp_path)]) == 2
    Journal(tmp_path, "early").close()
    assert report.main(["early", "--storage", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 2
    assert "has no plan yet" in told
    assert not (tmp_path / "early" / "report.html").exists()
    with pytest.raises(UserError, match="no plan"):
        report_on(tmp_path / "early", storage="runs")


def test_a_study_has_not_failed_for_want_of_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    setting: Any = SimpleNamespace(
        study="mine",
        request=SimpleNamespace(bucket=None, storage=tmp_path / "my runs"),
        warn=said.append,
    )
    journal: Any = SimpleNamespace(records=tuple)
    made = result(tmp_path)
    assert ending.make_report(made, setting, journal) == tmp_path / "report.html"
    assert said == []
    monkeypatch.setattr(report_page, "plots_of", lambda made: 1 / 0)
    assert ending.make_report(made, setting, journal) is None
    assert said == [
        "No report was made (division by zero); another try: python -m tuner.report mine "
        f"--storage '{tmp_path}/my runs'"
    ]
