"""What the tests of Google Cloud stand on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.provisioners.gcp.gcp_world import World, know_zones


@pytest.fixture
async def world(tmp_path: Path) -> World:
    """A provider that knows what its zones have."""
    await know_zones(tmp_path)
    return World(str(tmp_path))


@pytest.fixture
def stranger(tmp_path: Path) -> World:
    """A provider that knows nothing yet."""
    return World(str(tmp_path))
