"""What the trials of a study share, prepared before any begins: pictures, nets that score, classes
and rungs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from trainables.addresses import below
from trainables.datasets import user_cache
from trainables.evaluation import prepare_scorer
from trainables.pipeline import StudyContext
from trainables.pretraining import damaged_sources
from trainables.published import publish
from tuner import plugins
from tuner.live import newest_line
from tuner.machine import cpus
from tuner.plan import SCORING_COMPUTE, Plan
from tuner.setting import Setting

PUBLISHED = "published"  # folder of prepared pictures and nets, beside the studies


def study_contexts(setting: Setting, plan: Plan) -> tuple[StudyContext, StudyContext]:
    """What the trials share, and what the last test does."""
    search = search_context(setting, plan)
    return search, replace(search, split=setting.split.joined().to_dict())


def search_context(setting: Setting, plan: Plan) -> StudyContext:
    """What the trials share."""
    bucket, store = setting.request.bucket, setting.request.storage / "pretrained"
    for line in damaged_sources(store):
        setting.warn(line)
    nets = _scoring_nets(setting)
    return StudyContext(
        image_set=_for_nodes(setting.images.path, setting),
        scorer=_for_nodes(nets, setting),
        split=setting.split.to_dict(),
        rungs=plan.rungs,
        episodes=plan.episodes,
        samples=plan.samples,
        device=plan.device,
        store=str(store) if bucket is None else below(bucket, store.name),
        scoring_share=SCORING_COMPUTE[plan.scale],
        fast_gpu=plan.fast_gpu,
        plugins=plugins.records(),
    )


def _scoring_nets(setting: Setting) -> Path:
    with newest_line(setting.console) as report:
        return prepare_scorer(
            setting.images,
            setting.split,
            cache_dir=user_cache() / "scorers",
            threads=max(1, int(cpus())),
            report=report,
        )


def _for_nodes(folder: Path, setting: Setting) -> str:
    """What was prepared here, where the nodes that run trials can read it."""
    if setting.ray is None:
        return str(folder)
    request = setting.request
    return publish(folder, below(request.bucket or request.storage.as_uri(), PUBLISHED))
