"""What every test needs: no surprise from other projects' settings, one thread, no deadlines."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

# A busy machine is no fault of a property; pytest-timeout ends what really hangs.
settings.register_profile("ours", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("ours")

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Sums in one order: results are compared bit for bit."""
    import torch

    torch.set_num_threads(1)
