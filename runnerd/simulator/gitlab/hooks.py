"""Webhooks out: the Job Hook with GitLab's payload, headers, signature and self-protection.

The job's own tags are not in the payload (gitlab-org/gitlab#467657): a receiver has to ask. Deliveries run beside the
requests, so their order is not kept. A hook that fails several times in a row is left alone for a while, then for good.
A hook may ask for pipeline events, as clients do; none are sent.
"""

from __future__ import annotations

import asyncio
import base64
import collections
import dataclasses
import datetime
import hashlib
import hmac
import json
from typing import Any

from runnerd.simulator import http, world
from runnerd.simulator.gitlab import access, builds, entities, parameters, projects, views

#: Events that a hook may be set to.
EVENTS = ("job_events", "pipeline_events")
LONGEST_PAUSE = 24 * 3600.0


@dataclasses.dataclass(slots=True)
class Health:
    """The deliveries and failures of a hook."""

    failures: int = 0
    pause: float = 60.0
    disabled_until: float | None = None
    permanently: bool = False


@dataclasses.dataclass(slots=True)
class Delivery:
    """One event for one hook; a resend keeps the key and the body."""

    id: int
    hook_id: int
    event: str
    key: str
    body: bytes
    headers: dict[str, str]
    #: status of every try, 0 for no answer
    statuses: list[int] = dataclasses.field(default_factory=list)


class Hooks:
    """Sends events to the world's hooks of this forge, and serves the hook endpoints of projects."""

    def __init__(self, jobs: builds.Builds, gate: access.Access, places: projects.Projects) -> None:
        self.jobs = jobs
        self.world = jobs.world
        self.gate = gate
        self.places = places
        self.health: dict[int, Health] = {}
        self.recent: collections.deque[Delivery] = collections.deque(maxlen=1000)
        self._options: dict[int, dict[str, Any]] = {}
        jobs.listeners.append(self.announce)

    def routes(self) -> list[tuple[str, str, http.Handler]]:
        table: list[tuple[str, str, http.Handler]] = []
        for place in ("projects", "groups"):
            base = f"/{place}/{{id}}/hooks"
            table += [
                ("GET", base, self.list_hooks),
                ("POST", base, self.create),
                ("GET", base + "/{hook_id}", self.show),
                ("PUT", base + "/{hook_id}", self.edit),
                ("DELETE", base + "/{hook_id}", self.delete),
                ("POST", base + "/{hook_id}/test/{trigger}", self.test),
                ("POST", base + "/{hook_id}/events/{event_id}/resend", self.resend),
            ]
        return table

    # Sending

    def announce(self, build: entities.Build) -> None:
        """Tell every hook in whose scope the job is that its status changed."""
        if not self.world.hooks:
            return
        payload: dict[str, Any] | None = None
        for hook in list(self.world.hooks.values()):
            if hook.forge != access.FORGE or not _inside(hook.scope, build.repo):
                continue
            if hook.events and not {"job_events", "job", "build", "Job Hook"} & set(hook.events):
                continue
            if payload is None:
                payload = self.payload(build)
            self.send(hook, "Job Hook", payload)

    def send(self, hook: world.Hook, event: str, payload: dict[str, Any]) -> None:
        """Deliver beside the requests, unless the hook is disabled now."""
        if not self._enabled(hook):
            return
        delivery = self._delivery(hook, event, payload)
        self.world.spawn(self._deliver_quietly(hook, delivery), name=f"gitlab hook {hook.id}")

    def resend_last(self, count: int = 1) -> None:
        """Deliver the newest events once more, as a duplicate: same key, same body."""
        for delivery in list(self.recent)[-count:]:
            hook = self.world.hooks.get(delivery.hook_id)
            if hook is not None:
                self.world.spawn(self._deliver_quietly(hook, delivery), name=f"gitlab hook {hook.id} again")

    def _delivery(self, hook: world.Hook, event: str, payload: dict[str, Any]) -> Delivery:
        delivery = Delivery(
            id=self.world.next_id("gitlab-hook-event", 1),
            hook_id=hook.id,
            event=event,
            key=self.world.uuid(),
            body=json.dumps(payload, separators=(",", ":")).encode(),
            headers={
                "Content-Type": "application/json",
                "User-Agent": f"GitLab/{self.gate.settings.version}",
                "X-Gitlab-Event": event,
                "X-Gitlab-Event-UUID": self.world.uuid(),
                "X-Gitlab-Webhook-UUID": f"00000000-0000-4000-8000-{hook.id:012d}",
                "X-Gitlab-Instance": "http://gitlab.simulated",
            },
        )
        self.recent.append(delivery)
        return delivery

    def _headers(self, hook: world.Hook, delivery: Delivery) -> dict[str, str]:
        headers = {**delivery.headers, "Idempotency-Key": delivery.key}
        if hook.secret:
            headers["X-Gitlab-Token"] = hook.secret
        if hook.signing_token:
            stamp = str(int(self.world.now()))
            headers["webhook-id"] = delivery.key
            headers["webhook-timestamp"] = stamp
            headers["webhook-signature"] = signature(hook.signing_token, delivery.key, stamp, delivery.body)
        return headers

    async def _deliver(self, hook: world.Hook, delivery: Delivery) -> int:
        status = 0
        try:
            async with asyncio.timeout(self.gate.settings.hook_timeout):
                answer = await self.world.deliver(hook.url, self._headers(hook, delivery), delivery.body)
                status = answer.status
        except (OSError, TimeoutError):
            status = 0
        delivery.statuses.append(status)
        self._judge(hook, succeeded=200 <= status < 300)
        return status

    async def _deliver_quietly(self, hook: world.Hook, delivery: Delivery) -> None:
        await self._deliver(hook, delivery)

    def _enabled(self, hook: world.Hook) -> bool:
        health = self.health.get(hook.id)
        if health is None:
            return True
        return not health.permanently and (health.disabled_until is None or self.world.now() >= health.disabled_until)

    def _judge(self, hook: world.Hook, *, succeeded: bool) -> None:
        if succeeded:
            self.health.pop(hook.id, None)
            return
        health = self.health.setdefault(hook.id, Health())
        health.failures += 1
        if health.failures >= self.gate.settings.hook_failures_permanent:
            health.permanently = True
        elif health.failures >= self.gate.settings.hook_failures_temporary and self._enabled(hook):
            health.disabled_until = self.world.now() + health.pause
            health.pause = min(LONGEST_PAUSE, health.pause * 2)

    def payload(self, build: entities.Build) -> dict[str, Any]:
        """A Job Hook body, key by key as lib/gitlab/data_builder/build.rb makes it; `commit.id` is the pipeline's."""
        base = "http://gitlab.simulated"
        pipeline = self.jobs.pipelines[build.run_id]
        project = self.places.make_project(build.repo)
        record = None if build.state == "pending" else self.jobs.runners.get(build.runner_id or 0)
        author = views.commit(build.sha, pipeline.created_at)
        return {
            "object_kind": "build",
            "ref": build.ref,
            "tag": False,
            "before_sha": "0" * 40,
            "sha": build.sha,
            "retries_count": build.retries,
            "build_id": build.id,
            "build_name": build.name,
            "build_stage": "test",
            "build_status": build.state,
            "build_created_at": _ruby(build.queued_at),
            "build_started_at": _ruby(build.started_at),
            "build_finished_at": _ruby(build.finished_at),
            "build_created_at_iso": world.iso(build.queued_at),
            "build_started_at_iso": world.iso(build.started_at),
            "build_finished_at_iso": world.iso(build.finished_at),
            "build_duration": views.duration(self.jobs, build),
            "build_queued_duration": views.queued_duration(self.jobs, build),
            "build_allow_failure": False,
            "build_failure_reason": build.failure_reason or "unknown_failure",
            "pipeline_id": build.run_id,
            "runner": None
            if record is None
            else {
                "id": record.id,
                "description": record.description,
                "runner_type": record.kind,
                "active": not record.paused,
                "is_shared": record.kind == "instance_type",
                "tags": list(record.labels),
            },
            "project_id": build.project_id,
            "project_name": build.repo.replace("/", " / "),
            "user": {
                "id": 2,
                "name": "Data Scientist",
                "username": "scientist",
                "avatar_url": None,
                "email": "[REDACTED]",
            },
            "commit": {
                "id": pipeline.id,
                "name": None,
                "sha": build.sha,
                "message": author["message"],
                "author_name": author["author_name"],
                "author_email": author["author_email"],
                "author_url": "mailto:" + str(author["author_email"]),
                "status": views.pipeline_status_cached(self.jobs, pipeline, build),
                "duration": None,
                "started_at": _ruby(build.started_at),
                "finished_at": _ruby(build.finished_at),
            },
            "repository": {
                "name": project.short,
                "url": f"git@gitlab.simulated:{project.name}.git",
                "description": "",
                "homepage": f"{base}/{project.name}",
                "git_http_url": f"{base}/{project.name}.git",
                "git_ssh_url": f"git@gitlab.simulated:{project.name}.git",
                "visibility_level": 0,
            },
            "project": {
                "id": project.id,
                "name": project.short,
                "description": "",
                "web_url": f"{base}/{project.name}",
                "avatar_url": None,
                "git_ssh_url": f"git@gitlab.simulated:{project.name}.git",
                "git_http_url": f"{base}/{project.name}.git",
                "namespace": project.owner,
                "visibility_level": 0,
                "path_with_namespace": project.name,
                "default_branch": project.default_branch,
                "ci_config_path": None,
            },
            "environment": None,
        }

    # The hook endpoints

    def _scope(self, request: http.Request) -> tuple[str, access.Caller]:
        caller = self.gate.caller(request)
        if request.template.startswith("/api/v4/groups/"):
            scope = self.places.group(request.params["id"], caller).path
            caller.need(access.OWNER)
        else:
            scope = self.places.project(request.params["id"], caller).name
            caller.need(access.MAINTAINER)
        return scope, caller

    def _hook(self, request: http.Request) -> tuple[world.Hook, access.Caller]:
        scope, caller = self._scope(request)
        number = request.params["hook_id"]
        hook = self.world.hooks.get(int(number)) if number.isdecimal() else None
        if hook is None or hook.forge != access.FORGE or hook.scope != scope:
            raise parameters.refuse("404 Not found", 404)
        return hook, caller

    def _show(self, hook: world.Hook) -> dict[str, Any]:
        health = self.health.get(hook.id, Health())
        events = set(hook.events)
        return {
            "id": hook.id,
            "url": hook.url,
            "name": self._options.get(hook.id, {}).get("name"),
            "description": self._options.get(hook.id, {}).get("description"),
            "push_events": False,
            "job_events": not events or "job_events" in events,
            "pipeline_events": "pipeline_events" in events,
            "enable_ssl_verification": True,
            "token_present": bool(hook.secret),
            "signing_token_present": bool(hook.signing_token),
            "alert_status": "disabled"
            if health.permanently
            else "executable"
            if self._enabled(hook)
            else "temporarily_disabled",
            "disabled_until": world.iso(health.disabled_until),
        }

    def _read(self, hook: world.Hook, params: parameters.Parameters) -> None:
        url = params.text("url")
        if url is not None:
            if not url.startswith(("http://", "https://")):
                text = "Only allowed schemes are http, https"
                raise http.Refusal(http.json_response({"error": f"Invalid url given: {text}"}, 422))
            hook.url = url
        hook.secret = params.text("token", hook.secret) or ""
        signing = params.text("signing_token")
        if signing is not None and self.gate.settings.version_numbers >= (19, 0):
            if signing and key_of(signing) is None:
                raise http.Refusal(http.json_response({"message": {"signing_token": ["is invalid"]}}, 422))
            hook.signing_token = signing
        chosen = set(hook.events)
        for name in EVENTS:
            if params.raw(name) is not None:
                (chosen.add if params.flag(name) else chosen.discard)(name)
        hook.events = tuple(sorted(chosen)) or ("none",)
        for name in ("name", "description"):
            if name in params:
                self._options.setdefault(hook.id, {})[name] = params.text(name)

    async def list_hooks(self, request: http.Request) -> http.Response:
        scope, caller = self._scope(request)
        found = [
            self._show(one) for one in self.world.hooks.values() if one.forge == access.FORGE and one.scope == scope
        ]
        return http.json_response(found, headers=caller.headers)

    async def create(self, request: http.Request) -> http.Response:
        scope, caller = self._scope(request)
        params = parameters.read(request)
        hook = world.Hook(0, access.FORGE, params.required("url"), scope=scope)
        self._read(hook, params)
        hook.id = self.world.next_id("gitlab-hook", 19_001)
        self.world.hooks[hook.id] = hook
        return http.json_response(self._show(hook), 201, headers=caller.headers)

    async def show(self, request: http.Request) -> http.Response:
        hook, caller = self._hook(request)
        return http.json_response(self._show(hook), headers=caller.headers)

    async def edit(self, request: http.Request) -> http.Response:
        hook, caller = self._hook(request)
        self._read(hook, parameters.read(request))
        return http.json_response(self._show(hook), headers=caller.headers)

    async def delete(self, request: http.Request) -> http.Response:
        hook, caller = self._hook(request)
        del self.world.hooks[hook.id]
        return http.empty(204, headers=caller.headers)

    async def test(self, request: http.Request) -> http.Response:
        """Send a test delivery; a good one enables the hook again."""
        hook, caller = self._hook(request)
        if request.params["trigger"] != "job_events":
            raise parameters.invalid("trigger does not have a valid value")
        ids = [
            id
            for project in self.places.known()
            if _inside(hook.scope, project.name)
            for id in self.jobs.ids(project.id)
        ]
        build = self.jobs.get(ids[-1]) if ids else None
        if build is None:
            raise parameters.refuse("422 Ensure the project has CI jobs.", 422)
        status = await self._deliver(hook, self._delivery(hook, "Job Hook", self.payload(build)))
        if not 200 <= status < 300:
            raise parameters.refuse(f"Hook execution failed: {status or 'no answer'}", 422)
        return http.json_response({"message": "201 Created"}, 201, headers=caller.headers)

    async def resend(self, request: http.Request) -> http.Response:
        hook, caller = self._hook(request)
        found = next((one for one in self.recent if str(one.id) == request.params["event_id"]), None)
        if found is None or found.hook_id != hook.id:
            raise parameters.refuse("404 Not found", 404)
        return http.json_response({"response_status": await self._deliver(hook, found)}, 201, headers=caller.headers)


def _inside(scope: str, repo: str) -> bool:
    return not scope or repo == scope or repo.startswith(scope + "/")


def _ruby(moment: float | None) -> str | None:
    if moment is None:
        return None
    return datetime.datetime.fromtimestamp(int(moment), datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def key_of(signing_token: str) -> bytes | None:
    """The key in a `whsec_<base64>` token; None when it is malformed."""
    if not signing_token.startswith("whsec_"):
        return None
    try:
        return base64.b64decode(signing_token[6:], validate=True) or None
    except ValueError:
        return None


def signature(signing_token: str, id: str, stamp: str, body: bytes) -> str:
    """The Standard Webhooks signature that GitLab 19.0 sends (`webhook-signature: v1,…`).

    Raises ValueError for a signing token that is malformed.
    """
    key = key_of(signing_token)
    if key is None:
        raise ValueError("a signing token is whsec_ and base64")
    digest = hmac.new(key, f"{id}.{stamp}.".encode() + body, hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()
