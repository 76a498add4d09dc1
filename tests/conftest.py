# SPDX-License-Identifier: MPL-2.0
"""How the property tests run: as long as they need on a busy machine, and leaving nothing behind.

`HYPOTHESIS_EXAMPLES=5000 pytest tests/unit` looks much longer than a usual run.
"""

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "patient",
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
    max_examples=int(os.environ.get("HYPOTHESIS_EXAMPLES", "60")),
)
settings.load_profile("patient")
