"""A simulated cloud: for the demo, the benchmarks and the tests."""

from __future__ import annotations

from provisioners.fake.cloud import FakeCloud, Machine
from provisioners.fake.provider import Fake

__all__ = ["Fake", "FakeCloud", "Machine"]
