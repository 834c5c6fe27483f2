"""Simulated clouds: what Amazon EC2, Compute Engine and Azure Resource Manager answer, without an account."""

from __future__ import annotations
