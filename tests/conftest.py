"""Settings of every test."""

import os

from hypothesis import settings

# Before torch is loaded: its threads would spin while they wait, and take the cores of the other tests.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
settings.register_profile("no-deadline", deadline=None)  # a busy machine is no defect
settings.load_profile("no-deadline")
