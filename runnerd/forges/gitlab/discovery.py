"""The scopes of one forge, their projects, and the refs that these protect.

A listing replaces the former one only when all its pages came: a project that is merely missing from half an answer
must not lose its jobs.  Nothing here reads jobs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runnerd import errors
from runnerd.forges import fields
from runnerd.forges.gitlab import matching, rate_limits, rest
from runnerd.kit import clock as clocks

#: Seconds for which the protected refs of a project are kept.
PROTECTION_KEPT_S = 300.0


@dataclass(frozen=True, slots=True)
class Project:
    """A project whose jobs are followed."""

    id: int
    #: Full path.
    path: str
    #: The scope whose runners serve it.
    scope: str
    public: bool = False
    #: Unix seconds by GitLab's clock at which something happened in it last; 0 when not reported.
    active_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Scope:
    """A group or a project that the configuration names."""

    path: str
    group: bool

    @property
    def kind(self) -> str:
        """GitLab's type of the runners of such a scope."""
        return "group_type" if self.group else "project_type"

    @property
    def runners(self) -> str:
        """The endpoint that lists its runners."""
        return f"/{'groups' if self.group else 'projects'}/{{id}}/runners"


class Directory:
    """The scopes and the projects listed last."""

    def __init__(
        self, client: rest.Rest, *, groups: Sequence[str], projects: Sequence[str], clock: clocks.Clock
    ) -> None:
        self._rest = client
        self._clock = clock
        self._scopes = {path: Scope(path, True) for path in groups}
        self._scopes.update({path: Scope(path, False) for path in projects})
        self._ids: dict[str, int] = {}
        self._projects: dict[str, dict[int, Project]] = {}
        self._protection: dict[int, tuple[matching.Protection, float]] = {}
        self._keyset = True

    @property
    def scopes(self) -> Sequence[Scope]:
        """The scopes that the configuration names."""
        return tuple(self._scopes.values())

    def scope(self, path: str) -> Scope:
        """Return the scope of that path; one that left the configuration counts as a group."""
        return self._scopes.get(path) or Scope(path, True)

    def known(self, path: str) -> bool:
        """Return True when the scope was ever listed in full."""
        return path in self._projects

    def projects(self, path: str) -> Sequence[Project]:
        """Return the projects of a scope, as listed last."""
        return tuple(self._projects.get(path, {}).values())

    def project(self, id: int) -> Project | None:
        """Return a listed project by its id."""
        for listed in self._projects.values():
            if id in listed:
                return listed[id]
        return None

    def covers(self, path: str) -> bool:
        """Return True when a project of that path belongs to a scope, listed or new."""
        return self.owner(path) is not None

    def owner(self, path: str) -> str | None:
        """Return the one scope of a project: itself, else the innermost group, so that no job counts twice."""
        best = None
        for scope in self._scopes.values():
            inside = path.startswith(scope.path + "/") if scope.group else path == scope.path
            if inside and (best is None or len(scope.path) > len(best)):
                best = scope.path
        return best

    async def id_of(self, scope: Scope) -> int:
        """Return GitLab's id of the scope, which is looked up once.  Raises :class:`errors.ForgeError`."""
        if scope.path not in self._ids:
            answer = await self._lookup(scope, rate_limits.Urgency.FOREGROUND)
            number = fields.positive_id(answer.get("id"))
            if not number:
                raise errors.ForgeUnavailable(f"{self._rest.name}: GitLab answered no id for {scope.path}")
            self._ids[scope.path] = number
        return self._ids[scope.path]

    async def _lookup(self, scope: Scope, urgency: rate_limits.Urgency) -> Mapping[str, Any]:
        if scope.group:
            return await self._rest.get(
                "/groups/{id}",
                what=f"look up the group {scope.path}",
                path={"id": scope.path},
                query=(("with_projects", "false"),),
                urgency=urgency,
            )
        return await self._rest.get(
            "/projects/{id}",
            what=f"look up the project {scope.path}",
            path={"id": scope.path},
            urgency=urgency,
        )

    async def refresh(self, scope: Scope) -> None:
        """List the scope's projects.  Raises :class:`errors.ForgeError`, and then keeps the former list."""
        if scope.group:
            rows = await self._group_rows(scope)
        else:
            rows = [await self._lookup(scope, rate_limits.Urgency.BACKGROUND)]
            if (number := fields.positive_id(rows[0].get("id"))) > 0:
                self._ids[scope.path] = number
        listed: dict[int, Project] = {}
        for row in rows:
            project = self._read(row, scope)
            if project is not None:
                listed[project.id] = project
        self._projects[scope.path] = listed

    async def _group_rows(self, scope: Scope) -> list[Mapping[str, Any]]:
        number = await self.id_of(scope)
        wanted = (("include_subgroups", "true"), ("archived", "false"), ("with_shared", "false"))
        for _ in range(2):
            try:
                return await self._rest.rows(
                    "/groups/{id}/projects",
                    what=f"list the projects of {scope.path}",
                    path={"id": number},
                    query=(*wanted, *(rest.KEYSET if self._keyset else (("per_page", "100"),))),
                    urgency=rate_limits.Urgency.BACKGROUND,
                )
            except errors.ForgeNotFound:
                # The group may have been deleted and created again under its path.
                self._ids.pop(scope.path, None)
                raise
            except errors.ForgeError as error:
                if error.status not in (400, 405) or not self._keyset:
                    raise
                # Versions without keyset paging for this list answer 405; Link headers are followed all the same.
                self._keyset = False
        raise AssertionError("the second round has no keyset to give up")  # pragma: no cover

    def _read(self, row: Mapping[str, Any], scope: Scope) -> Project | None:
        id_, path = row.get("id"), row.get("path_with_namespace")
        if not isinstance(id_, int) or not isinstance(path, str):
            return None
        if row.get("archived") is True or row.get("builds_access_level") == "disabled":
            return None
        if scope.group and self.owner(path) != scope.path:
            return None
        return Project(
            id=id_,
            path=path,
            scope=scope.path,
            public=row.get("visibility") == "public",
            active_at=fields.timestamp(row.get("last_activity_at")),
        )

    async def protection(self, project: Project) -> matching.Protection:
        """Return the protected refs of a project, kept for some minutes.  Raises :class:`errors.ForgeError`."""
        now = self._clock.now()
        cached = self._protection.get(project.id)
        if cached is not None and now - cached[1] < PROTECTION_KEPT_S:
            return cached[0]
        patterns = []
        for kind in ("branches", "tags"):
            rows = await self._rest.rows(
                f"/projects/{{id}}/protected_{kind}",
                what=f"read the protected {kind} of {project.path}",
                path={"id": project.id},
            )
            patterns.append(tuple(str(row["name"]) for row in rows if isinstance(row.get("name"), str)))
        protection = matching.Protection(branches=patterns[0], tags=patterns[1])
        self._protection[project.id] = (protection, now)
        return protection
