"""A champion is opened by whatever names it, and draws the same whatever else it is asked for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny_champion import STEPS, card, drawings, keep_champion

from trainables import metrics
from trainables.errors import UserError
from tuner.model import Model
from tuner.registered_models import MODEL
from tuner.run_store import RunStore
from tuner.tracking_uri import resolve_uri

SHOTS = drawings()[0, :4, None]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return Model.open(str(keep_champion(tmp_path_factory.mktemp("kept") / "champion")))


@pytest.mark.parametrize("method", ["reptile", "dcgan", "cgan", "infogan"])
@pytest.mark.parametrize("given", [1, 5])
def test_every_method_draws_from_any_number_of_shots(
    method: str, given: int, tmp_path: Path
) -> None:
    model = Model.open(str(keep_champion(tmp_path / "champion", method)))
    shots = drawings()[1, :given, None]
    told: list[tuple[int, int]] = []
    drawn = dict(
        model.draw(
            shots, count=6, seed=1, stops=[0, 2, 4], progress=lambda *done: told.append(done)
        )
    )
    assert list(drawn) == [0, 2, 4]
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert all(p.shape == (6, 1, 32, 32) and p.dtype == np.uint8 for p in drawn.values())
    assert (drawn[0] != drawn[4]).any(), "adaptation changes nothing"
    (alone,) = dict(model.draw(shots, count=6, seed=1, stops=[4])).values()
    assert (alone == drawn[4]).all(), "a stop's pictures hang on the others"
    (other,) = dict(model.draw(shots, count=6, seed=2, stops=[4])).values()
    assert (alone != other).any()
    elsewhere = drawings()[2, :given, None]
    assert (dict(model.draw(elsewhere, count=6, seed=1, stops=[4]))[4] != alone).any()


def test_what_its_study_chose_is_the_default(tiny: Model) -> None:
    assert (tiny.steps, tiny.max_steps) == (STEPS, 3 * STEPS)
    assert (tiny.channels, tiny.size) == (1, 32)
    assert tiny.title.endswith("champion (reptile on strokes, 32 x 32 pixels)")
    assert [stop for stop, _ in tiny.draw(SHOTS, count=1, seed=0)] == [STEPS]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"count": 0}, "`count` must be 1 to"),
        ({"seed": -1}, "`seed` must be 0 or more"),
        ({"stops": [4, 2]}, "must ascend"),
        ({"stops": []}, "must ascend"),
        ({"stops": [10]}, "at most 9 steps"),
        ({"shots": SHOTS[:0]}, "1 to 16 shots"),
        ({"shots": np.repeat(SHOTS, 5, axis=0)}, "got 20"),
        ({"shots": SHOTS[:, :, :16]}, "Shots must be uint8"),
    ],
)
def test_what_it_cannot_do_is_refused_at_once(tiny: Model, asked: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        tiny.draw(**{"shots": SHOTS, "count": 1, "seed": 0} | asked)


def test_copies_are_counted_as_the_scoring_does(tiny: Model) -> None:
    """Two exact copies, one mirrored, one moved by a pixel; and two real drawings."""
    copies = [SHOTS[2], SHOTS[1], SHOTS[0][..., ::-1], np.roll(SHOTS[3], 1, axis=2)]
    pictures = np.stack([*copies, *drawings()[0, 10:12, None]])
    scores = tiny.scores(SHOTS, pictures)
    assert scores.nearest[:4].tolist() == [2, 1, 0, 3]
    assert scores.copies.tolist() == [True] * 4 + [False] * 2
    assert scores.copy_share == pytest.approx(4 / 6)
    assert (scores.distances == metrics.copy_distances(pictures, SHOTS)).all()
    assert scores.distance == pytest.approx(np.median(scores.distances))
    assert scores.real_distance == card().copy_distance > card().copy_threshold > 0


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")  # MLflow's own
def test_a_model_is_found_by_whatever_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = tmp_path / "runs"
    kept = keep_champion(storage / "mine" / "champion")
    asked = {"storage": str(storage)}
    assert Model.open("mine", **asked).title.startswith("mine (")  # no store is made for asking
    assert not (storage / "mlflow.db").exists()
    store = RunStore(resolve_uri(None, storage), experiment="any", storage=storage)
    run = store.create("study", {}, when=0)
    for name in ("config.json", "weights.safetensors"):
        store.log_file(run, kept / name, MODEL)
    store.crown("mine", store.register("mine", run, MODEL, {}))
    for source in ("mine", "models:/mine@champion", "models:/mine/1"):
        assert Model.open(source, **asked).title.startswith("mine version 1 (")
    monkeypatch.chdir(storage)
    for source in ("mine/champion", "./mine"):
        assert Model.open(source).title.startswith(f"{kept} (")
    for source, words in (
        ("models:/mine/2", "There is no model 'models:/mine/2' in sqlite"),
        ("models:/mine@other", "There is no model"),
        ("yours", "there are mine; name one"),
        ("./yours", "or of a study that has one, got './yours'"),
        ("what ever", "MODEL must be"),
    ):
        with pytest.raises(UserError) as caught:
            Model.open(source, **asked)
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)


def test_champions_older_than_cards_are_measured_by_their_samples(tmp_path: Path) -> None:
    folder = keep_champion(tmp_path / "champion", data=False)
    with pytest.raises(UserError, match="is older than the numbers"):
        Model.open(str(folder))
    (folder / "samples.npz").write_bytes(b"PK")
    with pytest.raises(UserError, match="is older than the numbers"):
        Model.open(str(folder))
    shots = drawings()[:, :4, None]
    np.savez_compressed(folder / "samples.npz", shots=shots, samples=shots)
    assert Model.open(str(folder)).card.style == "drawing"


def test_damaged_files_are_one_line(tmp_path: Path) -> None:
    folder = keep_champion(tmp_path / "champion")
    config, weights = folder / "config.json", folder / "weights.safetensors"
    settings = config.read_text()
    for text in ("{", "[]", json.dumps(json.loads(settings) | {"data": {"name": 1}})):
        config.write_text(text)
        with pytest.raises(UserError, match=r"whole config\.json and weights\.safetensors"):
            Model.open(str(folder))
    config.write_text(settings)
    other = {"generator": torch.zeros(3), "critic": torch.zeros(3)}
    save_file(other, weights)
    with pytest.raises(UserError, match="The weights must be"):
        Model.open(str(folder))
    weights.write_bytes(b"\x00" * 99)
    with pytest.raises(UserError, match="whole config"):
        Model.open(str(folder))
