from __future__ import annotations

from hypothesis import HealthCheck, settings

# How long one example takes says something about the machine and what else it does, not about the code.
settings.register_profile("walstream", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("walstream")
