"""A verb that was killed at a random moment ends, when it is run again, as if nothing had happened."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))

import pytest
from kill_everything import VERBS, run


@pytest.mark.slow
def test_verbs_killed_at_random_end_as_if_uninterrupted():
    """The short form, a kill a verb; ``python tests/hostile/kill_everything.py`` kills 100 times."""
    assert run(len(VERBS), 1026, list(VERBS)) == []
