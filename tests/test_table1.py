"""Table 1 over finished studies: which are taken, what is shown, what is written."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console
from test_result import result

from trainables.errors import UserError
from tuner import report
from tuner.journal import Journal
from tuner.result import StudyResult
from tuner.table1 import (
    PUBLISHED,
    SCORES,
    Row,
    find_results,
    print_table,
    remarks,
    sections,
    table1,
    unfinished,
)


def study(storage: Path, name: str, **changes: object) -> StudyResult:
    made = result(storage / name, study=name, experiment="reptile_omniglot")
    made = replace(made, data=replace(made.data, name="omniglot", stand_in=False), **changes)
    made.write(storage / name / "result.json")
    return made


def test_the_newest_study_on_the_real_data_is_taken(tmp_path: Path) -> None:
    study(tmp_path, "reptile_omniglot", created="2026-01-02T00:00:00+00:00")
    study(tmp_path, "reptile_omniglot-2", created="2026-01-03T00:00:00+00:00")
    study(tmp_path, "reptile_omniglot-3", created="2026-01-01T00:00:00+00:00")
    other = study(tmp_path, "mine", created="2026-01-09T00:00:00+00:00")
    stand_in = replace(other, data=replace(other.data, name="strokes", stand_in=True))
    stand_in.write(tmp_path / "mine" / "result.json")
    assert find_results(tmp_path)[0]["reptile_omniglot"].study == "reptile_omniglot-2"


def test_a_short_try_replaces_no_study(tmp_path: Path) -> None:
    long = study(tmp_path, "reptile_omniglot", created="2026-01-01T00:00:00+00:00")
    study(tmp_path, "try", created="2026-01-02T00:00:00+00:00", trials=long.trials[:1])
    results, _ = find_results(tmp_path)
    assert results["reptile_omniglot"].study == "reptile_omniglot"
    assert any("study reptile_omniglot:" in line for line in remarks(results))


def test_a_folder_or_classes_of_ones_own_make_no_row(tmp_path: Path) -> None:
    made = study(tmp_path, "reptile_omniglot")
    assert made.gate is not None
    other = replace(made.gate, name="reptile_omniglot-classes-0123abcd")
    study(tmp_path, "classes", created="2026-02-01T00:00:00+00:00", gate=other)
    assert find_results(tmp_path)[0]["reptile_omniglot"].study == "reptile_omniglot"


def test_a_result_that_cannot_be_read_is_skipped_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study(tmp_path, "reptile_omniglot")
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "result.json").write_text('{"format": 1', encoding="utf-8")
    assert report.main(["table1", "--storage", str(tmp_path)]) == 0
    told = capsys.readouterr()
    assert "our champion" in told.out
    assert told.err.startswith("Skipped: ")
    assert "torn" in told.err
    assert told.err.count("\n") == 1


def test_what_has_begun_is_not_finished_yet(tmp_path: Path) -> None:
    for name in ("reptile_mnist-2", "dcgan_fashion_mnist-64px"):
        with Journal(tmp_path, name) as journal:
            journal.set_attr("plan", {})
    Journal(tmp_path, "reptile_omniglot").close()  # cut off before its plan
    lines = remarks({}, unfinished(tmp_path))
    assert "Not finished yet: Reptile, MNIST." in lines
    assert "DCGAN, FashionMNIST" in lines[-1]
    assert lines[-1].startswith("Not run yet")


@pytest.mark.parametrize("width", [80, 100, 150])
def test_every_score_is_shown_in_a_narrow_terminal(tmp_path: Path, width: int) -> None:
    study(tmp_path, "reptile_omniglot")
    out = io.StringIO()
    print_table(table1(find_results(tmp_path)[0]), Console(file=out, width=width))
    assert all(heading in out.getvalue() for heading in SCORES.values())
    assert max(map(len, out.getvalue().splitlines())) <= width
    assert "…" not in out.getvalue()
    assert "[0.33, 0.45]" in out.getvalue()  # J
    assert "[1.00, 1.50]" in out.getvalue()  # L


def test_a_champion_without_a_label_reads_well(tmp_path: Path) -> None:
    study(tmp_path, "reptile_omniglot")
    told = sections(find_results(tmp_path)[0])["reptile_omniglot"].champion
    assert told.startswith("The champion is trial 1, drawn after 100 steps")
    assert "Searched: width 16. Beside these: inner_lr 0.001, latent 64." in told


def test_a_study_is_told_with_the_commands_it_was_run_by(tmp_path: Path) -> None:
    typed = "python -m tuner.launch reptile_omniglot --budget 600s --seed 3 --sampler gp"
    made = study(tmp_path, "reptile_omniglot", timings={"search": 330.0})
    replace(made, commands=made.commands | {"searched_by": typed}).write(
        tmp_path / "reptile_omniglot" / "result.json"
    )
    section = sections(find_results(tmp_path)[0])["reptile_omniglot"]
    assert section.command == typed
    assert "(5.5 of search on 2 slots)" in section.told
    assert typed in section.markdown("grid.png")
    assert typed in section.html("grid.png")


def test_baselines_have_intervals(tmp_path: Path) -> None:
    study(tmp_path, "reptile_omniglot", null_intervals={"real": {"J": (0.85, 0.87)}})
    assert report.main(["table1", "--storage", str(tmp_path), "--out", str(tmp_path / "o")]) == 0
    row = next(
        line
        for line in (tmp_path / "o" / "results.md").read_text().splitlines()
        if "real pictures" in line
    )
    assert "[0.85, 0.87]" in row


def test_nothing_is_less_than_nothing() -> None:
    row = Row("MNIST", "real pictures", {"L": -0.001, "kid": -0.3}, {"L": (-0.04, -0.0)})
    assert row.cells(("kid", "L"), ("L",)) == ["0", "0.00 [-0.04, 0.00]"]


def test_titles_that_hold_commas_are_told_apart() -> None:
    assert any("Reptile, MNIST; Reptile, Omniglot; " in line for line in remarks({}))


def test_no_study_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="finished studies"):
        find_results(tmp_path)
    assert report.main(["table1", "--storage", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_every_published_row_is_there_and_what_was_run_beside_it(tmp_path: Path) -> None:
    made = study(tmp_path, "reptile_omniglot")
    rows = table1(find_results(tmp_path)[0])
    published = [row for row in rows if row.what == "paper, as published"]
    assert len(published) == len(PUBLISHED)
    assert made.test is not None
    champion = next(row for row in rows if row.what == "our champion")
    assert champion.scores["J"] == made.test.metrics["J"]
    assert champion.intervals == made.test.intervals


def test_the_files_hold_what_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = study(tmp_path, "reptile_omniglot")
    assert report.main(["table1", "--storage", str(tmp_path), "--out", str(tmp_path / "o")]) == 0
    assert "our champion" in capsys.readouterr().out
    assert made.test is not None
    read = pd.read_csv(tmp_path / "o" / "results.csv")
    row = read[read["what"] == "our champion"].iloc[0]
    assert row["J"] == pytest.approx(made.test.metrics["J"])
    for suffix in ("md", "html"):
        text = (tmp_path / "o" / f"results.{suffix}").read_text()
        assert f"{made.test.metrics['J']:.2f}" in text
        assert "4,321" in text  # the paper's MSE on Omniglot
        assert "Not few-shot as published" in text
        assert "Not run yet" in text


def test_what_a_result_says_is_text_in_every_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = "<script>alert(1)</script>[red]`"
    made = study(tmp_path, "reptile_omniglot", verdict=script)
    assert made.best is not None
    hostile = replace(
        made,
        best=replace(made.best, label=script, params={script: script}),
        commands={"searched_by": script},
        git_commit=script,
    )
    hostile.write(tmp_path / "reptile_omniglot" / "result.json")
    out = tmp_path / "o"
    assert report.main(["table1", "--storage", str(tmp_path), "--out", str(out)]) == 0
    page = (out / "results.html").read_text()
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 4
    text = (out / "results.md").read_text()
    code = "`<script>alert(1)</script>[red]'`"  # where Markdown knows no HTML
    assert text.count(code) == 1
    assert "<script" not in text.replace(code, "")
    assert "[red]" in capsys.readouterr().out, "the terminal shows it, and obeys nothing"
