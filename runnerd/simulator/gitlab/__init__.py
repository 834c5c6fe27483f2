"""The GitLab half of the simulator: `/api/v4`, the runner protocol, uploads and webhooks.

What it answers and refuses follows the public documentation and source of GitLab 19.x as far as they are known; where
they are silent the docstring of the handler says what was chosen. There is no Git server, no GraphQL and no artifacts.
"""

from __future__ import annotations

from runnerd.simulator.gitlab.half import Gitlab
from runnerd.simulator.gitlab.settings import Settings

__all__ = ["Gitlab", "Settings"]
