"""Table 1 over finished studies: which are taken, what is shown, what is written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from test_result import result

from trainables.errors import UserError
from tuner import report
from tuner.report import PUBLISHED, newest_results, table1
from tuner.result import StudyResult


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
    assert newest_results(tmp_path)["reptile_omniglot"].study == "reptile_omniglot-2"


def test_no_study_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="finished studies"):
        newest_results(tmp_path)
    assert report.main(["table1", "--storage", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_every_published_row_is_there_and_what_was_run_beside_it(tmp_path: Path) -> None:
    made = study(tmp_path, "reptile_omniglot")
    rows = table1(newest_results(tmp_path))
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
