"""Scores of sets of few, large classes: the known failures, the formulas, the rules."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from tiny_large import SPLIT, large_images, large_nets
from tiny_scorer import tiny_images

from trainables.class_scorer import ClassScorer, ClassScores
from trainables.evaluation import make_scorer, null_baselines, scoring_episodes
from trainables.features import open_scoring_nets, prepare_scorer
from trainables.tasks import COMPARED, REFERENCE, large_classes, samples_wanted


@pytest.fixture(scope="module")
def scorer() -> ClassScorer:
    return ClassScorer(large_images(), SPLIT, large_nets(), part="validation")


@pytest.fixture(scope="module")
def nulls(scorer: ClassScorer) -> dict[str, ClassScores]:
    return null_baselines(scorer)


def test_large_classes_have_a_scorer_of_their_own() -> None:
    assert large_classes(large_images())
    assert not large_classes(tiny_images())
    assert samples_wanted(large_images()) == COMPARED
    assert samples_wanted(tiny_images()) == 16
    made = make_scorer(large_images(), SPLIT, large_nets(), part="test")
    assert isinstance(made, ClassScorer)


def test_side_by_side_is_one_after_another(scorer: ClassScorer) -> None:
    both = make_scorer(large_images(), SPLIT, large_nets(), part="validation", workers=3)
    assert both.score(scorer.reals).metrics == scorer.score(scorer.reals).metrics


def test_its_episodes_are_to_be_had_without_it(scorer: ClassScorer) -> None:
    assert scoring_episodes(large_images(), SPLIT, part="validation") == scorer.episodes
    other = scoring_episodes(large_images(), SPLIT, part="test", seed=1)
    assert {e.class_index for e in other} == set(SPLIT.test)


def test_one_class_too_small_makes_a_set_of_small_classes() -> None:
    images = large_images()
    held_out = images.held_out.copy()
    held_out[np.flatnonzero(held_out)[0]] = False
    assert not large_classes(replace(images, held_out=held_out))


def test_real_pictures_are_scored_as_good(nulls) -> None:
    real = nulls["real"].metrics
    assert abs(real["L"]) < 0.1
    assert real["J"] > 0.8
    assert real["density"] == pytest.approx(1, abs=0.1)
    assert real["coverage"] > 0.8
    assert real["copy_share"] == pytest.approx(0.01, abs=0.01)
    assert real["recognisability"] == pytest.approx(real["recognisability_real"], abs=0.01)
    assert real["diversity"] == pytest.approx(1, abs=0.05)
    assert abs(real["c_t"]) < 1e-9


def test_known_failures_are_worse_than_real_pictures_and_copies_are_worst(scorer, nulls) -> None:
    shots, reals = scorer.shots, scorer.reals
    few = reals[:, np.arange(COMPARED) % 16]
    half = reals.copy()
    half[:, ::2] = shots[:, np.arange(COMPARED // 2) % 4]
    order = [nulls["real"], scorer.score(few), scorer.score(half), nulls["copied_shots"]]
    losses = [scores.metrics["L"] for scores in order]
    assert losses == sorted(losses)
    assert nulls["copied_shots"].metrics["copy_share"] == 1
    assert nulls["copied_shots"].metrics["J"] < 0.02
    assert nulls["copied_shots"].metrics["c_t"] < -3


def test_another_class_is_not_recognised(scorer) -> None:
    other = np.roll(scorer.reals[:2], 1, axis=0)
    assert scorer.score(other).metrics["recognisability"] < 0.2


def test_scores_are_what_their_formulas_say_and_means_over_episodes(nulls) -> None:
    for scores in nulls.values():
        rows = scores.by_episode
        for e in range(len(rows["L"])):
            copied = max(0, rows["copy_share"][e] - 0.01)
            missed = max(0, rows["recognisability_real"][e] - rows["recognisability"][e])
            ratio = math.log10(rows["fd"][e] / rows["fd_real"][e])
            assert rows["L"][e] == pytest.approx(ratio + copied + missed)
            quality = min(1, rows["density"][e]) * rows["recognisability"][e] * rows["coverage"][e]
            assert rows["J"][e] == pytest.approx(math.sqrt(quality) * (1 - copied))
        for name, values in rows.items():
            assert scores.metrics[name] == pytest.approx(values.mean())


def test_the_first_episodes_score_alone_as_they_do_among_all(scorer, nulls) -> None:
    alone = scorer.score(scorer.reals[:2])
    for name, values in alone.by_episode.items():
        np.testing.assert_allclose(values, nulls["real"].by_episode[name][:2])


def test_intervals_hold_the_estimate_and_shares_stay_shares(nulls) -> None:
    for scores in nulls.values():
        for name in ("L", "J", "coverage", "copy_share"):
            low, high = scores.intervals([name])[name]
            assert low <= scores.metrics[name] + 1e-9
            assert high >= scores.metrics[name] - 1e-9
        assert (
            0
            <= scores.intervals(["coverage"])["coverage"][0]
            <= scores.intervals(["coverage"])["coverage"][1]
            <= 1
        )
    with pytest.raises(ValueError, match="No score"):
        nulls["real"].intervals(["nonsense"])["nonsense"]


def test_no_reference_holds_a_picture_that_is_compared(scorer) -> None:
    for episode in scorer.episodes:
        assert len(set(episode.reals)) == REFERENCE + COMPARED
        assert not set(episode.reals) & set(episode.shots)
        assert not large_images().held_out[list(episode.shots)].any()


@pytest.mark.parametrize("shape", [(1, COMPARED - 1, 1, 32, 32), (99, COMPARED, 1, 32, 32)])
def test_wrong_shapes_are_refused(scorer, shape) -> None:
    with pytest.raises(ValueError, match="`samples` must be"):
        scorer.score(np.zeros(shape, np.uint8))


def test_only_nets_of_large_classes_classify() -> None:
    pictures = large_images().images[:3]
    assert open_scoring_nets(large_nets()).classify(pictures).shape == (3,)


def test_nets_of_small_classes_do_not_classify(tmp_path) -> None:
    images = tiny_images(8)
    split = replace(SPLIT, train=(0, 1, 2, 3), validation=(4,))
    nets = prepare_scorer(
        images, split, cache_dir=tmp_path, threads=1, report=lambda _: None, steps=2
    )
    with pytest.raises(ValueError, match="small classes"):
        open_scoring_nets(nets).classify(images.images[:1])
