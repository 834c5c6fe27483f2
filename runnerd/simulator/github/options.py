"""The kind of GitHub that is simulated, and its limits and times, each with the documented or measured value."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(slots=True)
class Options:
    """All durations are seconds; `None` for a limit switches it off."""

    #: True = the flow of an enterprise server: JobAvailable, then acquirejobs
    ghes_acquire: bool = False
    #: False = labels other than the first are silently dropped (enterprise server 3.18 to 3.20 without the flag)
    custom_labels: bool = True
    #: owners that exist from the start
    owners: tuple[str, ...] = ("acme",)
    #: repositories that exist from the start
    repositories: tuple[str, ...] = ("acme/ml",)
    #: runner groups of every organisation beyond Default and GitHub-hosted
    groups: tuple[str, ...] = ("gpu",)

    #: how long a message poll blocks
    poll_block: float = 50.0
    #: a session not seen for so long may be replaced (measured about 50 s)
    session_idle: float = 50.0
    #: life of admin and queue tokens
    admin_token_ttl: float = 3600.0
    queue_token_ttl: float = 3600.0
    registration_token_ttl: float = 3600.0
    installation_token_ttl: float = 3600.0
    #: inner messages per message
    batch: int = 50
    #: True = what exceeds a batch is never sent, as a backlog cut off
    drop_excess: bool = False
    #: an assignment that no runner takes in this time lapses (measured 5 min)
    lapse: float = 300.0
    #: how often a job is assigned again after a lapse before it stays queued unseen; None = for ever
    lapses: int | None = None
    #: a runner that was handed a job and does not start it loses it
    pickup: float = 60.0
    #: a runner that stops renewing keeps its job for so long
    lease: float = 600.0
    #: a cancelled job that its runner does not end is ended by force
    cancel_grace: float = 300.0
    #: a runner not heard of for so long is offline
    offline_after: float = 60.0
    #: offline ephemeral registrations are removed
    registration_expiry: float = 86_400.0
    #: queued jobs fail
    queue_limit: float = 86_400.0
    #: runner registrations per scope in 5 minutes
    registrations: int | None = 1500
    #: oldest runner version that may connect
    oldest_runner: str = "2.329.0"

    #: primary requests per hour of a person's tokens, and of an App installation
    rate_limit: int | None = 5000
    installation_rate_limit: int | None = 5000
    #: secondary limit: points per minute and endpoint
    points_per_minute: int | None = 900
    #: secondary limit: content made per minute
    content_per_minute: int | None = 80
    #: requests at the same time
    concurrent: int | None = 100

    #: seconds after which a webhook counts as failed
    hook_timeout: float = 10.0
    #: deliveries kept per hook
    deliveries: int = 1000
