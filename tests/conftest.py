"""For all tests, and the programs they start: kernels by the fixed rule, and no file in the user's own cache."""

from __future__ import annotations

import os

os.environ["ENGINE_CHOICES"] = "rule"
os.environ["XDG_STATE_HOME"] = "/nonexistent"
