"""Findings of a check."""

from __future__ import annotations

from provisioners import base
from provisioners.base import Finding, Level
from provisioners.cloud_common import checks


def test_findings_are_kept_in_order_and_once() -> None:
    findings = checks.Findings("gpus")
    findings.ok("signed in")
    findings.error("no subnet", "correct it", place="pools.t4")
    findings.error("no subnet", "correct it", place="pools.t4")
    findings.warning("nearly full", "add one")
    assert findings.found == [
        Finding(Level.OK, "providers.gpus", "signed in"),
        Finding(Level.ERROR, "pools.t4", "no subnet", "correct it"),
        Finding(Level.WARNING, "providers.gpus", "nearly full", "add one"),
    ]
    assert (findings.errors, findings.problems) == (2, 3)


def test_a_sample_without_a_pool_goes_by_its_name() -> None:
    offer = base.Offer("p", "a", "east", "1", "t", base.Market.SPOT, 1.0)
    sample = base.CreateRequest("k", "i-1", offer, "#!", {}, 0.0)
    assert checks.pool_of(sample) == "pools.i-1"
