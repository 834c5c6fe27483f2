from __future__ import annotations

import pytest

from runnerd.kit import redaction


@pytest.fixture
def mask(monkeypatch: pytest.MonkeyPatch) -> redaction.Mask:
    """A mask of its own for each test, so that none learns from another."""
    fresh = redaction.Mask()
    monkeypatch.setattr(redaction, "_mask", fresh)
    return fresh


@pytest.fixture(autouse=True)
def own_mask(mask: redaction.Mask) -> None:
    pass
