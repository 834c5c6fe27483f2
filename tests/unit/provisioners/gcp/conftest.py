"""What the tests of Google Cloud stand on."""

from __future__ import annotations

from pathlib import Path

import pytest
from gcp_world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(str(tmp_path))
