"""Instances made of processes on this host, shared by the provisioners ``local`` and ``fake``.

Imports nothing at package level, so that a supervisor stays as small as its own modules.
"""

from __future__ import annotations
