"""GitLab as a forge: projects polled and woken by webhooks, runners made by API and removed with care."""

from __future__ import annotations

from runnerd.forges.gitlab.client import GitLab

__all__ = ["GitLab"]
