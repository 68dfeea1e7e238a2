from __future__ import annotations

from hypothesis import HealthCheck, settings

# How fast a machine draws examples is no property of the code under test, and the same examples
# are drawn each time, so that what passed once passes again.
settings.register_profile(
    "any-machine", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any-machine")
