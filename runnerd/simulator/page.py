"""The page: what a person sees of the pull requests, their reports and the jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runnerd.simulator import http

if TYPE_CHECKING:
    from runnerd.simulator import app as app_module


def routes(app: app_module.App) -> list[http.Route]:
    return []
