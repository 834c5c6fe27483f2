"""Webhooks out: workflow_job events, signed, with a record of every attempt and redelivery on request.

A failed delivery is never tried again by itself, as on GitHub; a redelivery keeps the GUID of the first attempt.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from typing import Any

from runnerd.simulator import world
from runnerd.simulator.github import entities, payloads, run_payloads, state


class Webhooks:
    """Sends events to the hooks whose scope covers the repository."""

    def __init__(self, tables: state.State) -> None:
        self._state = tables
        self._world = tables.world

    def workflow_job(self, action: str, job: entities.GithubJob) -> None:
        """Announce what became of a job: queued, in_progress or completed."""
        hooks = self._hooks("workflow_job", job.repo)
        if not hooks:
            return
        payload = self.payload(action, job)
        for hook in hooks:
            self.send(hook, "workflow_job", action, payload, repository_id=payload["repository"]["id"])

    def payload(self, action: str, job: entities.GithubJob) -> dict[str, Any]:
        repo = self._state.repository(job.repo)
        run = self._state.runs[job.run_id]
        return {
            "action": action,
            "workflow_job": run_payloads.job(self._world.base_url, job, run, job.extra.get("runner_group_name")),
            "repository": payloads.repository(self._world.base_url, repo),
            "organization": payloads.organization(self._world.base_url, repo.owner),
            "sender": payloads.user(self._world.base_url, "octocat"),
        }

    def ping(self, hook: world.Hook) -> None:
        self.send(hook, "ping", None, {"zen": "Keep it logically awesome.", "hook_id": hook.id})

    def send(
        self,
        hook: world.Hook,
        event: str,
        action: str | None,
        payload: dict[str, Any],
        *,
        repository_id: int | None = None,
    ) -> entities.Delivery:
        body = json.dumps(payload, separators=(",", ":")).encode()
        guid = self._world.uuid()
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "GitHub-Hookshot/51m0034",
            "Accept": "*/*",
            "X-GitHub-Event": event,
            "X-GitHub-Delivery": guid,
            "X-GitHub-Hook-ID": str(hook.id),
            "X-GitHub-Hook-Installation-Target-ID": str(repository_id or 1),
            "X-GitHub-Hook-Installation-Target-Type": "repository" if "/" in hook.scope else "organization",
        }
        if hook.secret:
            digest = hmac.new(hook.secret.encode(), body, hashlib.sha256).hexdigest()
            headers["X-Hub-Signature-256"] = f"sha256={digest}"
        delivery = self._record(hook, guid, event, action, repository_id, headers, body, redelivery=False)
        self._world.spawn(self._deliver(hook, delivery), name=f"webhook {delivery.id}")
        return delivery

    def redeliver(self, delivery: entities.Delivery) -> entities.Delivery | None:
        """Try a recorded delivery once more, under its GUID; None when the hook is gone."""
        hook = self._world.hooks.get(delivery.hook_id)
        if hook is None:
            return None
        again = self._record(
            hook,
            delivery.guid,
            delivery.event,
            delivery.action,
            delivery.repository_id,
            delivery.headers,
            delivery.body,
            redelivery=True,
        )
        self._world.spawn(self._deliver(hook, again), name=f"webhook {again.id}")
        return again

    def of_hook(self, hook_id: int) -> list[entities.Delivery]:
        """The attempts of a hook, newest first."""
        return [item for item in reversed(self._state.deliveries.values()) if item.hook_id == hook_id]

    def _hooks(self, event: str, repo: str) -> list[world.Hook]:
        return [
            hook
            for hook in self._world.hooks.values()
            if hook.forge == "github"
            and (not hook.scope or self._state.serves(hook.scope, repo))
            and (not hook.events or event in hook.events)
        ]

    def _record(
        self,
        hook: world.Hook,
        guid: str,
        event: str,
        action: str | None,
        repository_id: int | None,
        headers: dict[str, str],
        body: bytes,
        *,
        redelivery: bool,
    ) -> entities.Delivery:
        delivery = entities.Delivery(
            self._world.next_id("github-delivery", 80_001),
            guid,
            hook.id,
            event,
            action,
            repository_id,
            headers,
            body,
            self._world.now(),
            redelivery,
        )
        self._state.deliveries[delivery.id] = delivery
        while len(self._state.deliveries) > self._state.options.deliveries:
            del self._state.deliveries[next(iter(self._state.deliveries))]
        return delivery

    async def _deliver(self, hook: world.Hook, delivery: entities.Delivery) -> None:
        began = self._world.now()
        try:
            async with asyncio.timeout(self._state.options.hook_timeout):
                answer = await self._world.deliver(hook.url, delivery.headers, delivery.body)
        except TimeoutError:
            delivery.status, delivery.status_code = "timed out", 504
        except OSError as error:
            delivery.status, delivery.status_code = f"failed to connect to host: {error}"[:100], 502
        else:
            ok = 200 <= answer.status < 300
            delivery.status = "OK" if ok else f"Invalid HTTP Response: {answer.status}"
            delivery.status_code = answer.status
        delivery.duration = self._world.now() - began
        self._world.changed("deliveries")
