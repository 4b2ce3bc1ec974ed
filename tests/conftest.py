"""What every test needs: no surprise from other projects' settings, one thread, no deadlines."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

# A busy machine is no fault of a property; pytest-timeout ends what really hangs.
settings.register_profile("ours", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("ours")

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"


@pytest.fixture(autouse=True, scope="session")
def _own_tracking_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An empty tracking store is made once, and not in the user's cache."""
    from tuner import store_client

    with pytest.MonkeyPatch.context() as patch:
        cache = tmp_path_factory.mktemp("cache")
        patch.setattr(store_client, "user_cache", lambda: cache)
        yield


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Sums in one order: results are compared bit for bit."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def _double() -> Iterator[None]:
    """In 32 bits Adam, which begins by signs, makes much of the last digits."""
    import torch  # here, since most tests need none

    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
