"""The state that the parts of the GitHub half share: world, options and GitHub's own tables with their indexes."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from runnerd.simulator import http, world
from runnerd.simulator.github import entities, options

DOCS = "https://docs.github.com/rest"
#: id of the group of hosted runners, into which no client may register
HOSTED_GROUP = 2


def refuse(status: int, message: str, *, headers: dict[str, str] | None = None, **more: Any) -> http.Refusal:
    """A refusal in the shape of the REST API."""
    body = {"message": message, "documentation_url": DOCS, "status": str(status), **more}
    return http.Refusal(http.json_response(body, status, headers=headers))


def read_json(request: http.Request) -> dict[str, Any]:
    """The body as a JSON object ({} when empty), or a 400 refusal as GitHub words it."""
    try:
        data = json.loads(request.body.decode("utf-8-sig")) if request.body.strip() else {}
    except ValueError:
        raise refuse(400, "Problems parsing JSON") from None
    if not isinstance(data, dict):
        raise refuse(400, "Body should be a JSON object")
    return data


class State:
    """The tables of the simulated GitHub."""

    def __init__(self, shared: world.World, settings: options.Options) -> None:
        self.world = shared
        self.options = settings
        self.owners: set[str] = {owner.lower() for owner in settings.owners}
        self.runs: dict[int, entities.Run] = {}
        #: run ids of a repository, oldest first; and by (repository, status)
        self.runs_of: dict[str, dict[int, None]] = {}
        self.runs_by_status: dict[tuple[str, str], dict[int, None]] = {}
        self.sets: dict[int, entities.ScaleSet] = {}
        #: scale set ids that were deleted, for the error that says so
        self.deleted_sets: set[int] = set()
        self.runners: dict[int, entities.GithubRunner] = {}
        self.runner_names: dict[tuple[str, str], int] = {}
        self.runner_secrets: dict[str, int] = {}
        self.groups: dict[tuple[str, int], entities.Group] = {}
        self.deliveries: dict[int, entities.Delivery] = {}
        self.checks: dict[int, entities.CheckRun] = {}
        self.statuses: list[entities.CommitStatus] = []
        self.issues: set[tuple[str, int]] = set()
        for name in settings.repositories:
            self.repository(name)

    def job(self, id: int) -> entities.GithubJob:
        """A job by id. Raises KeyError."""
        job = self.world.jobs[id]
        if not isinstance(job, entities.GithubJob):
            raise KeyError(id)
        return job

    def repository(self, name: str, *, private: bool = True) -> world.Repository:
        repo = self.world.repository("github", name, private=private)
        self.owners.add(repo.owner.lower())
        return repo

    def known_repository(self, owner: str, name: str) -> world.Repository:
        """The repository, or a 404 refusal."""
        wanted = f"{owner}/{name}"
        found = self.world.repositories.get(("github", wanted))
        if found is None:
            for (forge, key), repo in self.world.repositories.items():
                if forge == "github" and key.lower() == wanted.lower():
                    return repo
            raise refuse(404, "Not Found")
        return found

    def canonical_scope(self, scope: str) -> str | None:
        """An organisation, repository or enterprise as we spell it; None when there is no such thing."""
        if scope.lower().startswith("enterprises/"):
            return "enterprises/" + scope.split("/", 1)[1].lower()
        if "/" not in scope:
            return scope.lower() if scope.lower() in self.owners else None
        for forge, name in self.world.repositories:
            if forge == "github" and name.lower() == scope.lower():
                return name
        return None

    def serves(self, scope: str, repo: str) -> bool:
        """Return True when runners of a scope may take jobs of a repository."""
        return scope.startswith("enterprises/") or scope in (repo, repo.split("/")[0].lower())

    def groups_of(self, scope: str) -> list[entities.Group]:
        """The runner groups of a scope; those that always exist are created here."""
        if (scope, 1) not in self.groups:
            self.groups[(scope, 1)] = entities.Group(1, scope, "Default", default=True)
            if "/" not in scope:
                for name in self.options.groups:
                    self.add_group(scope, name)
        return [group for (owner, _), group in self.groups.items() if owner == scope]

    def add_group(self, scope: str, name: str, **more: Any) -> entities.Group:
        group = entities.Group(self.world.next_id(f"github-group-{scope}", 3), scope, name, **more)
        self.groups[(scope, group.id)] = group
        return group

    def group(self, scope: str, id: int) -> entities.Group | None:
        return next((group for group in self.groups_of(scope) if group.id == id), None)

    def group_admits(self, scope: str, group_id: int, repo: str) -> bool:
        """Return True when a repository may use a group's runners (public ones are off by default)."""
        group = self.group(scope, group_id)
        if group is None:
            return False
        found = self.world.repository("github", repo)
        if not found.private and not group.allows_public and "/" not in scope:
            return False
        return group.visibility == "all" or repo in group.repositories

    # Runs

    def set_run_status(self, run: entities.Run, status: str) -> None:
        if run.status == status and run.id in self.runs_by_status.get((run.repo, status), {}):
            return
        self.runs_by_status.get((run.repo, run.status), {}).pop(run.id, None)
        run.status = status
        self.runs_by_status.setdefault((run.repo, status), {})[run.id] = None

    def add_run(self, run: entities.Run) -> None:
        self.runs[run.id] = run
        self.runs_of.setdefault(run.repo, {})[run.id] = None
        self.set_run_status(run, run.status)

    def to_json(self, item: Any) -> dict[str, Any]:
        return {field.name: getattr(item, field.name) for field in dataclasses.fields(item)}
