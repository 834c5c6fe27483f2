"""The control endpoints below `/_sim`: queue jobs, see everything, script faults.

They are for tests, the demo and the benchmark, never for a client of the forges; input that is wrong is refused with
400 and what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from runnerd.simulator import faults, http, world
from runnerd.simulator.half import Half

#: the most jobs that one request may queue
MOST_JOBS = 100_000

_SPEC_FIELDS = ("forge", "repo", "labels", "count", "script", "name", "duration", "pull_number", "event")


class BadInput(ValueError):
    """Input that the control endpoint refuses; the text says what is wrong."""


def job_spec(data: Any) -> world.JobSpec:
    """Check the body of `POST /_sim/jobs`. Raises BadInput naming the field."""
    if not isinstance(data, dict):
        raise BadInput("the body must be a JSON object")
    forge = data.get("forge")
    if forge not in ("github", "gitlab"):
        raise BadInput(f"forge must be 'github' or 'gitlab', not {forge!r}")
    repo = data.get("repo")
    if not isinstance(repo, str) or repo.count("/") < 1 or not all(repo.split("/")):
        raise BadInput(f"repo must be like 'acme/ml', not {repo!r}")
    if forge == "github" and repo.count("/") != 1:
        raise BadInput(f"a GitHub repo is owner/name, not {repo!r}")
    labels = data.get("labels")
    if not isinstance(labels, list) or not all(isinstance(label, str) and label for label in labels):
        raise BadInput(f"labels must be a list of words, not {labels!r}")
    count = data.get("count", 1)
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MOST_JOBS:
        raise BadInput(f"count must be a number from 1 to {MOST_JOBS}, not {count!r}")
    script = data.get("script", [])
    if script is None:
        script = []
    if not isinstance(script, list) or not all(isinstance(line, str) for line in script):
        raise BadInput(f"script must be a list of lines, not {script!r}")
    name = data.get("name")
    if name is not None and not isinstance(name, str):
        raise BadInput(f"name must be text, not {name!r}")
    duration = data.get("duration")
    if duration is not None and (isinstance(duration, bool) or not isinstance(duration, int | float) or duration < 0):
        raise BadInput(f"duration must be seconds, 0 or more, not {duration!r}")
    pull = data.get("pull_number")
    if pull is not None and (isinstance(pull, bool) or not isinstance(pull, int) or pull < 1):
        raise BadInput(f"pull_number must be a positive number, not {pull!r}")
    event = data.get("event", "pull_request")
    if event not in ("pull_request", "push"):
        raise BadInput(f"event must be 'pull_request' or 'push', not {event!r}")
    return world.JobSpec(
        forge=forge,
        repo=repo,
        labels=tuple(labels),
        count=count,
        script=tuple(script),
        name=name,
        duration=duration,
        pull_number=pull,
        event=event,
        extra={key: value for key, value in data.items() if key not in _SPEC_FIELDS},
    )


def job_json(job: world.Job) -> dict[str, Any]:
    return {
        "id": job.id,
        "forge": job.forge,
        "repo": job.repo,
        "name": job.name,
        "labels": job.labels,
        "status": job.status,
        "conclusion": job.conclusion,
        "runner": job.runner,
        "queued_at": job.queued_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "starts": job.starts,
        "run_id": job.run_id,
        "run_attempt": job.run_attempt,
        "pull_number": job.pull_number,
    }


def runner_json(runner: world.Runner) -> dict[str, Any]:
    return {
        "id": runner.id,
        "forge": runner.forge,
        "name": runner.name,
        "scope": runner.scope,
        "status": runner.status,
        "busy": runner.busy,
        "labels": runner.labels,
        "job": runner.job_id,
        "created_at": runner.created_at,
    }


def comment_json(comment: world.Comment) -> dict[str, Any]:
    return {
        "id": comment.id,
        "forge": comment.forge,
        "repo": comment.repo,
        "target": comment.target,
        "body": comment.body,
        "user": comment.user,
        "created_at": comment.created_at,
        "updated_at": comment.updated_at,
    }


def upload_json(upload: world.Upload) -> dict[str, Any]:
    return {
        "id": upload.id,
        "forge": upload.forge,
        "repo": upload.repo,
        "path": upload.path,
        "filename": upload.filename,
        "content_type": upload.content_type,
        "bytes": len(upload.data),
        "created_at": upload.created_at,
    }


def routes(
    shared: world.World, halves: Mapping[str, Half], scripted: faults.Faults, router: http.Router
) -> list[http.Route]:
    """Return the control endpoints; ``router`` has counted the requests."""
    control = Control(shared, halves, scripted, router)
    table = [
        ("GET", "/_sim/state", control.state),
        ("POST", "/_sim/jobs", control.queue_jobs),
        ("POST", "/_sim/jobs/{id}/cancel", control.cancel_job),
        ("GET", "/_sim/jobs/{id}/log", control.job_log),
        ("GET", "/_sim/faults", control.list_faults),
        ("POST", "/_sim/faults", control.add_faults),
        ("DELETE", "/_sim/faults", control.clear_faults),
        ("POST", "/_sim/hooks", control.add_hook),
        ("GET", "/_sim/tokens", control.tokens),
        ("POST", "/_sim/wait", control.wait),
    ]
    return [http.Route(method, template, _checked(handler), "control") for method, template, handler in table]


def _checked(handler: http.Handler) -> http.Handler:
    async def checked(request: http.Request) -> http.Response:
        try:
            return await handler(request)
        except ValueError as error:
            return http.json_response({"error": str(error)}, 400)

    return checked


class Control:
    """The handlers of the control endpoints."""

    def __init__(
        self, shared: world.World, halves: Mapping[str, Half], scripted: faults.Faults, router: http.Router
    ) -> None:
        self._world = shared
        self._halves = halves
        self._faults = scripted
        self._router = router

    async def state(self, request: http.Request) -> http.Response:
        return http.json_response(state_of(self._world, self._halves, self._router))

    async def queue_jobs(self, request: http.Request) -> http.Response:
        spec = job_spec(_json(request))
        half = self._halves.get(spec.forge)
        if half is None:
            raise BadInput(f"this simulator has no {spec.forge}")
        jobs = half.queue_jobs(spec)
        return http.json_response({"ids": [job.id for job in jobs]}, 201)

    async def cancel_job(self, request: http.Request) -> http.Response:
        job = self._job(request)
        if job.status == "completed":
            return http.json_response({"error": f"job {job.id} is completed"}, 409)
        self._halves[job.forge].cancel_job(job)
        return http.json_response(job_json(job))

    async def job_log(self, request: http.Request) -> http.Response:
        return http.text_response(self._job(request).log.decode("utf-8", "replace"))

    async def list_faults(self, request: http.Request) -> http.Response:
        return http.json_response({"faults": self._faults.to_json()})

    async def add_faults(self, request: http.Request) -> http.Response:
        data = _json(request)
        listed = data.get("faults") if isinstance(data, dict) else None
        if not isinstance(listed, list) or not listed or not all(isinstance(item, dict) for item in listed):
            raise BadInput('the body must be {"faults": [{...}, ...]}')
        made = [faults.parse(item, now=self._world.now()) for item in listed]
        self._faults.add(*made)
        return http.json_response({"faults": self._faults.to_json()}, 201)

    async def clear_faults(self, request: http.Request) -> http.Response:
        self._faults.clear()
        return http.empty(204)

    async def add_hook(self, request: http.Request) -> http.Response:
        data = _json(request)
        if not isinstance(data, dict) or data.get("forge") not in ("github", "gitlab"):
            raise BadInput("forge must be 'github' or 'gitlab'")
        url = data.get("url")
        if not isinstance(url, str) or not url.startswith(("http://", "https://")):
            raise BadInput(f"url must be an http address, not {url!r}")
        hook = add_hook(self._world, forge=data["forge"], url=url, data=data)
        return http.json_response({"id": hook.id}, 201)

    async def tokens(self, request: http.Request) -> http.Response:
        return http.json_response({name: half.default_tokens() for name, half in self._halves.items()})

    async def wait(self, request: http.Request) -> http.Response:
        """Wait until no job is queued or in progress, at most `timeout` seconds; answers the state."""
        data = _json(request) or {}
        timeout = data.get("timeout", 60) if isinstance(data, dict) else 60
        if not isinstance(timeout, int | float) or not 0 <= timeout <= 3600:
            raise BadInput(f"timeout must be seconds from 0 to 3600, not {timeout!r}")
        done = await wait_until(
            self._world, lambda: all(job.status == "completed" for job in self._world.jobs.values()), timeout
        )
        return http.json_response({"done": done})

    def _job(self, request: http.Request) -> world.Job:
        try:
            return self._world.jobs[int(request.params["id"])]
        except (KeyError, ValueError):
            raise http.Refusal(http.json_response({"error": f"no job {request.params['id']}"}, 404)) from None


def add_hook(state: world.World, *, forge: str, url: str, data: Mapping[str, Any] | None = None) -> world.Hook:
    """Register a webhook target; `data` may give secret, signing_token, scope and events."""
    data = data or {}
    hook = world.Hook(
        id=state.next_id(f"{forge}-hook", 9001 if forge == "github" else 19_001),
        forge=forge,
        url=url,
        secret=str(data.get("secret") or ""),
        signing_token=str(data.get("signing_token") or ""),
        scope=str(data.get("scope") or ""),
        events=tuple(data.get("events") or ()),
    )
    state.hooks[hook.id] = hook
    return hook


def state_of(shared: world.World, halves: Mapping[str, Half], router: http.Router) -> dict[str, Any]:
    """Return everything, as `GET /_sim/state` answers it."""
    state: dict[str, Any] = {
        "now": shared.now(),
        "jobs": [job_json(job) for job in shared.jobs.values()],
        "runners": [runner_json(runner) for runner in shared.runners.values()],
        "comments": [comment_json(comment) for comment in shared.comments.values()],
        "uploads": [upload_json(upload) for upload in shared.uploads.values()],
        "requests": dict(router.counts),
        "scale_sets": [],
        "sessions": [],
    }
    for half in halves.values():
        for name, items in half.state().items():
            state.setdefault(name, []).extend(items)
    return state


async def wait_until(state: world.World, condition: Callable[[], bool], timeout: float) -> bool:
    """Wait for a condition on the world; checked at every change. False when the time is over."""
    deadline = state.now() + timeout
    while not condition():
        left = deadline - state.now()
        if left <= 0:
            return False
        await state.wait_for_change(left)
    return True


def _json(request: http.Request) -> Any:
    try:
        return request.json()
    except ValueError as error:
        raise BadInput(f"the body is not JSON: {error}") from None
