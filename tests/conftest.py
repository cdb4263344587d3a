"""Hypothesis: the same examples in every run. `--hypothesis-profile=explore` looks for new ones, several times as many.

Machine code is kept in the checkout between runs, and none that was made elsewhere is used, unless KATACHI_CACHE names
a folder.
"""

import gc
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

CACHE = Path(__file__).parents[1] / ".pytest_cache"
os.environ.setdefault("KATACHI_CACHE", str(CACHE / f"katachi-{sys.implementation.cache_tag}"))

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell starts what runs in the background so
    signal.signal(signal.SIGINT, signal.default_int_handler)

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
settings.register_profile("katachi", deadline=None, derandomize=True, max_examples=20, suppress_health_check=SLOW)
settings.register_profile("explore", deadline=None, max_examples=300, suppress_health_check=SLOW)
settings.load_profile("katachi")


@pytest.fixture(autouse=True, scope="module")
def frozen() -> Iterator[None]:
    """What earlier modules left, millions of objects in the end, is not looked through at every collection."""
    gc.collect(1)
    gc.freeze()
    yield
