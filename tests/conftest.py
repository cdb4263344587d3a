"""Hypothesis: the same examples in every run. `--hypothesis-profile=explore` looks for new ones, ten times as many."""

from hypothesis import HealthCheck, settings

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
settings.register_profile("katachi", deadline=None, derandomize=True, max_examples=60, suppress_health_check=SLOW)
settings.register_profile("explore", deadline=None, max_examples=300, suppress_health_check=SLOW)
settings.load_profile("katachi")
