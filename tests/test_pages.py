"""What MLflow's pages are told to show: links, tables, descriptions and the card of a model."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
from PIL import Image
from test_result import FRONT, SCORES, result, trial

from trainables.grid import GRID, SMALL, SMALL_WIDTH, sample_grid, save_grid
from tuner.model_card import MOST, version_note
from tuner.pages import ROWS, STUDIES, VIEW, experiment_tags, plain, study_note
from tuner.recorder import told
from tuner.run_store import MAX_TAG, picture
from tuner.trial_records import RungRecord


def state(tags: dict[str, str], key: str) -> dict[str, object]:
    """What MLflow's page makes of a saved view."""
    saved = json.loads(tags[VIEW + key])
    assert isinstance(saved["name"], str)
    assert isinstance(saved["createdAt"], int)
    shown: dict[str, object] = json.loads(saved["state"])
    return shown


def test_a_table_has_the_studys_trials_best_first_and_what_matters_before_the_rest():
    tags = experiment_tags("reptile_omniglot", "7", "my study", "ab", 1)
    shown = state(tags, "ab")
    assert shown["searchFilter"] == "tags.`mlflow.parentRunId` = 'ab'"
    assert (shown["orderByKey"], shown["orderByAsc"]) == ("metrics.`score/L`", True)
    first = ["metrics.`score/L`", "tags.`L_95`", "metrics.`score/J`", "tags.`state`"]
    assert shown["selectedColumns"][:4] == first
    assert shown["columnOrder"] == ["attributes.`Run Name`", *shown["selectedColumns"]]
    assert state(tags, STUDIES)["searchFilter"] == "tags.`kind` = 'study'"
    assert "viewStateShareKey=ab&" in tags["mlflow.note.content"]


def test_the_ranking_of_a_long_study_fits_its_description(tmp_path):
    params = {"architecture": "resnet", "width": 32, "inner_steps": 17, "adapt_steps": 700}
    params |= {"inner_lr_adam": 0.00123, "augment_shape": 0.123, "augment_tone": 0.456}
    trials = tuple(trial(number, params=params) for number in range(1000))
    pages = {n: f"#/experiments/12/runs/{n:032}?workflowType=machine_learning" for n in range(1000)}
    made = result(tmp_path, trials=trials, verdict="word " * 120, pareto=FRONT)
    shown = picture("0" * 32, "images/pictures~champion+step+0+timestamp+0+champion.png")
    note = study_note(made, pages, "#/table", shown)
    assert len(note) < MAX_TAG
    assert f"| {ROWS} | [trial " in note
    assert "[all 1000 trials](#/table)" in note
    assert "1.25 [1.00, 1.50]" in note  # the test's interval
    assert "%2B" in shown, "a plus in an address is a blank"


def test_a_card_tells_of_scores_use_limits_data_and_lineage(tmp_path):
    made = result(tmp_path)
    card = version_note(made, {"pipeline": "reptile"}, "7", "ab")
    assert card.startswith("L 1.25, J .39 on test classes. ")
    assert "--shots a.png b.png c.png d.png" in card
    assert "It can copy: 5%" in card
    assert "Lake and others: MIT" in card
    assert "[reptile\\_omniglot](#/experiments/7/runs/ab?" in card
    assert "pre-trained" not in card
    config = {"method": "cgan", "pretrain_steps": 9, "pretrain_batch": 4, "pretrain_lr": 0.1}
    trials = tuple(replace(t, config=config) for t in made.trials)
    transfer = replace(made, trials=trials, data=replace(made.data, name="[own](x)"))
    card = version_note(transfer, {"pipeline": "transfer"}, "7", "ab")
    assert "pre-trained as cgan on the base classes for 9 steps of 4, lr 0.1" in card
    assert "**Data.** \\[own\\](x)" in card
    assert len(card) < MOST


def test_text_stays_text():
    assert plain("<b>*a*|[b](c)") == "&lt;b&gt;\\*a\\*\\|\\[b\\](c)"


def test_observers_are_told_the_interval_of_a_rungs_loss():
    record = RungRecord(
        rung=0,
        metrics=SCORES,
        losses=[],
        checkpoint="",
        seconds=1.0,
        decision="continue",
        episodes=[1.0, 2.0, 3.0, 4.0],
    )
    low, high = (told(record)[name] for name in ("L_low", "L_high"))
    assert low < SCORES["L"] < high
    assert 1 < high - low < 3
    assert told(replace(record, episodes=[1.0])) == SCORES


def test_a_small_grid_fits_a_page_and_loses_nothing_at_32_pixels(tmp_path):
    rng = np.random.default_rng(0)
    shots, samples = (rng.integers(0, 256, (10, n, 1, 32, 32), np.uint8) for n in (4, 12))
    grid = sample_grid(shots, samples)
    save_grid(grid, tmp_path)
    with Image.open(tmp_path / GRID) as large, Image.open(tmp_path / SMALL) as small:
        assert np.array_equal(np.asarray(large), grid)
        assert small.width <= SMALL_WIDTH
        assert np.array_equal(np.asarray(small), grid[::2, ::2])
