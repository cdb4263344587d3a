"""Hypothesis: the same examples in every run. `--hypothesis-profile=explore` looks for new ones, several times as many.

Machine code is kept in the checkout between runs, and none that was made elsewhere is used, unless KATACHI_CACHE names
a folder.
"""

import os
import sys
from pathlib import Path

from hypothesis import HealthCheck, settings

CACHE = Path(__file__).parents[1] / ".pytest_cache"
os.environ.setdefault("KATACHI_CACHE", str(CACHE / f"katachi-{sys.implementation.cache_tag}"))

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
settings.register_profile("katachi", deadline=None, derandomize=True, max_examples=25, suppress_health_check=SLOW)
settings.register_profile("explore", deadline=None, max_examples=300, suppress_health_check=SLOW)
settings.load_profile("katachi")
