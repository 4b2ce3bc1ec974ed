"""What a plugin imports: the decorators that register something, and what they are used with.

A plugin is a Python file, named by `--plugin my_gan.py`, or a module of an installed package that
an entry point of the group `few_shot_tuner` names. docs/extending.md builds one step by step;
`python -m tuner.conformance --plugin my_gan.py` tells whether it keeps the rules.
"""

from __future__ import annotations

from trainables.added_data import register_data
from trainables.configs import ReptileConfig, TransferConfig
from trainables.errors import UserError
from trainables.generators import register_generator
from trainables.image_set import Pictures
from trainables.models.network import Network, Parameter
from trainables.pipeline import Diverged, Pipeline, Report, StudyContext, register_pipeline
from tuner.experiments import Experiment, Scale, experiment
from tuner.known_points import KnownPoint

__all__ = [
    "Diverged",
    "Experiment",
    "KnownPoint",
    "Network",
    "Parameter",
    "Pictures",
    "Pipeline",
    "Report",
    "ReptileConfig",
    "Scale",
    "StudyContext",
    "TransferConfig",
    "UserError",
    "experiment",
    "register_data",
    "register_generator",
    "register_pipeline",
]
