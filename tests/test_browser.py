"""MLflow's pages, Ray's dashboard and Optuna's, as a researcher meets them, in a real browser."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray
import requests
from browser import chromium, free_port, keep, page_of, served
from playwright.sync_api import Browser, Page, expect
from test_result import SCORES, result, trial
from toy_pipeline import ToyConfig, toy_space
from tracked_study import options

from cluster.session import session
from trainables.grid import sample_grid, save_grid
from tuner.journal import Journal
from tuner.journal_file import LOG
from tuner.pages import run_page, view_page
from tuner.recorder import told
from tuner.result import TrackingPlace
from tuner.summary import optuna_command
from tuner.tracking import Tracker
from tuner.tracking_uri import UI_PORT, ui_command
from tuner.trial_records import RungRecord

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
]
BEST = 3  # the trial with the highest J
SCORED = {0: (2.5, 0.05), 1: (0.9, 0.10), 2: (1.4, 0.30), BEST: (0.6, 0.55)}  # L and J

# Numbers of the trials from top to bottom: a table's rows are in the page in any order.
IN_ORDER = """wanted => [...document.querySelectorAll("a")]
    .filter(link => /^trial \\d/.test(link.innerText))
    .sort((a, b) => a.getBoundingClientRect().y - b.getBoundingClientRect().y)
    .map(link => link.innerText.split(" ")[1]).join() === wanted"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with page_of(browser) as opened:
        yield opened


def rung(number: int, index: int) -> RungRecord:
    loss, joint = SCORED[number]
    metrics = SCORES | {"L": loss + 1 - index, "J": joint, "rung": float(index), "complete": 1.0}
    return RungRecord(
        rung=index,
        metrics=metrics | {"train_flops": 1e12 * (index + 1), "train_seconds": 9.0 * (index + 1)},
        losses=[],
        checkpoint="",
        seconds=9.0,
        decision="done" if index else "continue",
        episodes=list(np.linspace(loss - 0.3, loss + 0.3, 8)),
    )


def grid(folder: Path, shade: int) -> None:
    """As of a trial on 32 pixels, ten classes."""
    folder.mkdir(parents=True, exist_ok=True)
    shots, samples = (np.full((10, n, 1, 32, 32), shade, np.uint8) for n in (4, 12))
    shots[..., 8:24, 14:18] = samples[..., 14:18, 8:24] = 255
    save_grid(sample_grid(shots, samples), folder)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, TrackingPlace]]:
    """Address of an MLflow UI on a study of four trials, whose best was crowned."""
    storage = tmp_path_factory.mktemp("store")
    folder = storage / "a study"
    tracker = Tracker(None, storage=storage, **options([], study="a study"))
    params = {"architecture": "dense", "width": 16, "inner_steps": 10, "inner_lr": 0.003}
    for number in SCORED:
        label = "" if number else "paper"
        tracker.trial_started(number, label, params | {"latent": 64}, params)
        for index in range(2):
            place = folder / f"trial-{number}" / str(index)
            grid(place, 30 * number)
            record = rung(number, index)
            tracker.rung_reached(number, index, told(record), [], place, record.decision)
        tracker.trial_ended(number, "PRUNED" if number == 2 else "COMPLETE", "")
    grid(folder / "champion", 90)
    for name in ("weights.safetensors", "config.json"):
        (folder / "champion" / name).write_text("{}")
    made = result(folder, study="a study")
    trials = [
        trial(n, label="" if n else "paper", params=params, scores=dict(rung(n, 1).metrics))
        for n in SCORED
    ]
    files = {name: f"champion/{name}" for name in ("grid.png", "weights.safetensors")}
    best = replace(
        made.best, number=BEST, grid=files["grid.png"], weights=files["weights.safetensors"]
    )
    gate = replace(made.gate, crowned=True, against=None, margin=None, reason="none before")
    made = replace(made, trials=tuple(trials), best=best, gate=gate, rematch=None)
    assert tracker.study_ended(made, {"pipeline": "reptile", "split": "abc"})
    port = free_port()
    command = shlex.split(ui_command(tracker.uri).replace(str(UI_PORT), str(port)))
    with served(command, f"http://127.0.0.1:{port}/health", storage / "ui.log"):
        yield f"http://127.0.0.1:{port}/", tracker.place


def test_the_experiment_is_sorted_by_any_score_and_leads_to_the_best(page, store):
    url, place = store
    page.goto(url + view_page(place.experiment_id, place.parent_run_id))
    page.wait_for_function(IN_ORDER, arg="3,1,2,0")  # the study's own run is not among them
    heads = page.locator(".ag-header-cell:visible").all()
    heads.sort(key=lambda head: head.bounding_box()["x"])  # the page has them in another order
    heads = [words for head in heads if (words := head.inner_text().strip())]
    assert heads[:6] == ["Run Name", "Created", "score/L", "L_95", "score/J", "state"]
    page.get_by_text("score/J", exact=True).first.click()  # of which more is better
    page.wait_for_function(IN_ORDER, arg="3,2,1,0")
    keep(page, "mlflow-trials")

    page.get_by_role("link", name="trial 3 · dense w16 K10 lr0.003").click()
    expect(page.get_by_role("heading", name="trial 3")).to_be_visible()
    picture = page.locator("img[src*='get-artifact']").first
    expect(picture).to_be_visible()
    page.wait_for_function("e => e.naturalWidth > 600", arg=picture.element_handle())
    expect(page.get_by_text("About this run")).to_be_in_viewport()  # not pushed out by the picture
    keep(page, "mlflow-trial")


def test_pictures_of_trials_are_compared_in_charts(page, store):
    url, place = store
    shown = view_page(place.experiment_id, place.parent_run_id)
    page.goto(url + shown.replace("?", "?compareRunsMode=CHART&"))
    expect(page.get_by_text("pictures/samples")).to_be_visible()
    page.wait_for_function("document.querySelectorAll(\"img[src*='compressed.png']\").length > 0")
    keep(page, "mlflow-charts")


def test_the_studys_page_shows_its_ranking_its_test_and_its_pictures(page, store):
    url, place = store
    page.goto(url + run_page(place.experiment_id, place.parent_run_id))
    page.get_by_text("Show more").click()
    expect(page.locator("img[src*='get-artifact']").first).to_be_visible()
    expect(page.get_by_text("this model")).to_be_visible()
    link = page.get_by_role("link", name="trial 3 · dense w16 K10 lr0.003").first
    keep(page, "mlflow-study")
    assert "/runs/" in link.get_attribute("href")


def test_the_experiments_description_leads_to_the_table(page, store):
    url, place = store
    page.goto(f"{url}#/experiments/{place.experiment_id}/runs?workflowType=machine_learning")
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="Trials of a study, best first").click()
    expect(opened.value.get_by_text("Sort: score/L")).to_be_visible()


def test_the_champion_has_a_card(page, store):
    url, _ = store
    page.goto(f"{url}#/models/reptile_omniglot?workflowType=machine_learning")
    expect(page.get_by_text("@ champion")).to_be_visible()
    expect(page.get_by_text("Few-shot image generators")).to_be_visible()
    keep(page, "mlflow-model")
    page.get_by_role("link", name="Version 1").click()
    for words in ("Intended use.", "Limits.", "Data.", "Lineage.", "augmented shots"):
        expect(page.get_by_text(words).first).to_be_visible()
    keep(page, "mlflow-card")


def test_mlflow_answers_no_other_names_than_this_machines(store):
    """Nothing of another page may ask it, whatever name it gives this machine."""
    url, _ = store
    answer = requests.get(url, headers={"Host": "evil.example"}, timeout=60)
    assert answer.status_code == 403


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # Ray's own files
def test_rays_dashboard_opens_with_the_token_that_the_command_prints(page):
    with session(None, cpus=1) as opened:

        @ray.remote(num_cpus=0)
        class Trial:
            def is_there(self) -> bool:
                return True

        actor = Trial.options(name="a trial").remote()
        assert ray.get(actor.is_there.remote())
        page.goto(f"{opened.dashboard_url}/#/actors")
        expect(page.get_by_text("Authentication Token Required")).to_be_visible()
        expect(page.get_by_text("ray get-auth-token")).to_be_visible()
        keep(page, "ray-token")
        command = shlex.split(opened.token_command)
        token = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        page.get_by_label("Authentication Token", exact=True).fill("a" * len(token))
        page.get_by_role("button", name="Submit").click()
        expect(page.get_by_text("Invalid authentication token")).to_be_visible()
        page.get_by_label("Authentication Token", exact=True).fill(token)
        page.get_by_role("button", name="Submit").click()
        expect(page.get_by_text("a trial")).to_be_visible()
        keep(page, "ray-dashboard")


def test_optunas_dashboard_opens_the_journal_and_leaves_it_as_it_is(page, tmp_path):
    with Journal(tmp_path, "s") as journal:
        for number in SCORED:
            journal.ask(toy_space, ToyConfig())
            for index in range(2):
                journal.add_rung(number, rung(number, index))
            journal.end(number, "COMPLETE", "")
        path = journal.folder / LOG  # of a study that somebody holds
        before, port = path.read_bytes(), free_port()
        command = [*shlex.split(optuna_command(path)), "--port", str(port)]
        url = f"http://127.0.0.1:{port}/dashboard"
        with served(command, url, tmp_path / "log"):
            page.goto(f"{url}/studies/0")
            expect(page.get_by_text("Hyperparameter Importance")).to_be_visible()
            expect(page.locator(".ytitle", has_text=re.compile("^L$")).first).to_be_visible()
            keep(page, "optuna")
            page.goto(f"{url}/studies/0/trials?numbers={BEST}")
            expect(page.get_by_text("Intermediate Values")).to_be_visible()
            expect(page.get_by_text("Best Trial").first).to_be_visible()
            expect(page.get_by_text("1000 1.6")).to_be_visible()  # GFLOPs, and L there
            keep(page, "optuna-trial")
        assert path.read_bytes() == before
