"""Groups, projects, the version and the own user; what exists and what a token can see of it.

Groups are the leading parts of project paths plus those made on purpose. An id in a path is a number or the whole path
percent-encoded in one segment (`acme%2Fml`), so a plain slash never finds a project. What is invisible is 404, not 403.
"""

from __future__ import annotations

import dataclasses
import io
import pathlib
import tarfile
from typing import Any

from runnerd.simulator import http, world
from runnerd.simulator.gitlab import access, builds, paging, parameters, views


@dataclasses.dataclass(frozen=True, slots=True)
class Group:
    """A group or subgroup."""

    id: int
    path: str


class Projects:
    """Lookup and handlers of groups and projects."""

    def __init__(self, jobs: builds.Builds, gate: access.Access) -> None:
        self.jobs = jobs
        self.world = jobs.world
        self.gate = gate
        self.groups: dict[str, Group] = {}
        self._by_id: dict[int, world.Repository] = {}
        self._names: set[str] = set()
        #: directories and repositories of the world when `known` last looked through them
        self._counts = (-1, -1)
        for path in gate.settings.groups:
            self.make_group(path)

    def routes(self) -> list[tuple[str, str, http.Handler]]:
        return [
            ("GET", "/version", self.version),
            ("GET", "/metadata", self.version),
            ("GET", "/user", self.current_user),
            ("GET", "/personal_access_tokens/self", self.token_self),
            ("GET", "/groups", self.list_groups),
            ("GET", "/groups/{id}", self.show_group),
            ("GET", "/groups/{id}/projects", self.list_group_projects),
            ("GET", "/groups/{id}/subgroups", self.list_subgroups),
            ("GET", "/projects", self.list_projects),
            ("POST", "/projects", self.create_project),
            ("GET", "/projects/{id}", self.show_project),
            ("GET", "/projects/{id}/repository/archive.tar.gz", self.archive),
        ]

    # Lookup

    def make_group(self, path: str) -> Group:
        """Return the group of that path, created with those above it when new."""
        parts = path.split("/")
        for end in range(1, len(parts) + 1):
            above = "/".join(parts[:end])
            if above not in self.groups:
                self.groups[above] = Group(self.world.next_id("gitlab-group", 101), above)
        return self.groups[path]

    def make_project(self, name: str) -> world.Repository:
        """Return the project of that path, created with its groups when new. Raises ValueError without a group."""
        if "/" not in name.strip("/") or name != name.strip("/"):
            raise ValueError(f"a project path is group/name, not {name!r}")
        project = self.world.repository(access.FORGE, name)
        if "protected" not in project.extra:
            self.make_group(project.owner)
            self._by_id[project.id] = project
            self._names.add(name)
            project.extra |= {
                "protected": [project.default_branch],
                "archived": False,
                "variables": [],
                "created_at": self.world.now(),
            }
            if self.gate.settings.repo_token:
                bot = self.gate.add(
                    user=f"project_{project.id}_bot",
                    scopes=("api",),
                    access_level=access.MAINTAINER,
                    namespace=name,
                )
                project.extra["variables"].append(
                    {
                        "key": "REPO_TOKEN",
                        "value": bot.value,
                        "public": False,
                        "file": False,
                        "masked": True,
                        "raw": False,
                    }
                )
        return project

    def known(self) -> list[world.Repository]:
        """All projects, ascending by id; those named at start exist without having had a job."""
        counts = len(self.world.directories), len(self.world.repositories)
        if counts == self._counts:
            return list(self._by_id.values())
        named = [name for name in self.world.directories if "/" in name]
        named += [name for forge, name in self.world.repositories if forge == access.FORGE]
        for name in named:
            if name not in self._names:
                self.make_project(name)
        self._counts = len(self.world.directories), len(self.world.repositories)
        return list(self._by_id.values())

    def project(self, reference: str, caller: access.Caller | None) -> world.Repository:
        """By id or path; 404 when there is none or the caller cannot see it."""
        if reference.isdecimal():
            self.known()
            found = self._by_id.get(int(reference))
        else:
            found = self.world.repositories.get((access.FORGE, reference))
            if reference not in self._names and (found is not None or reference in self.world.directories):
                found = self.make_project(reference)
        if found is None or (caller is not None and not caller.sees(found.name)):
            raise parameters.refuse("404 Project Not Found", 404)
        return found

    def group(self, reference: str, caller: access.Caller) -> Group:
        self.known()
        found = self.groups.get(reference)
        if reference.isdecimal():
            found = next((one for one in self.groups.values() if one.id == int(reference)), None)
        if found is None or not caller.sees(found.path):
            raise parameters.refuse("404 Group Not Found", 404)
        return found

    def of(self, request: http.Request, *scopes: str) -> tuple[world.Repository, access.Caller]:
        """The project that a request's path names, and its caller."""
        caller = self.gate.caller(request, *scopes)
        return self.project(request.params["id"], caller), caller

    # Handlers

    async def version(self, request: http.Request) -> http.Response:
        caller = self.gate.caller(request)
        body = {"version": self.gate.settings.version, "revision": "51b3a7c", "enterprise": True}
        return http.json_response(body, headers=caller.headers)

    async def current_user(self, request: http.Request) -> http.Response:
        caller = self.gate.caller(request)
        body = {**views.user(caller.user, request.base_url), "is_admin": caller.admin, "bot": True}
        return http.json_response(body, headers=caller.headers)

    async def token_self(self, request: http.Request) -> http.Response:
        """Answer the facts that a token can read about itself, with any scope."""
        caller = self.gate.caller(request, *access.SCOPES)
        token = caller.token
        body = {
            "id": 1 + sum(token.value.encode()),
            "name": token.user,
            "revoked": token.revoked,
            "scopes": list(token.scopes),
            "active": True,
            "expires_at": (world.iso(token.expires_at) or "")[:10] or None,
        }
        return http.json_response(body, headers=caller.headers)

    async def list_groups(self, request: http.Request) -> http.Response:
        caller = self.gate.caller(request)
        self.known()
        found = [group for group in self.groups.values() if caller.sees(group.path)]
        page = paging.offset(
            request, parameters.read(request), found, lambda group: self._show_group(group, request.base_url)
        )
        return page.with_headers(caller.headers)

    async def list_subgroups(self, request: http.Request) -> http.Response:
        caller = self.gate.caller(request)
        above = self.group(request.params["id"], caller)
        found = [group for group in self.groups.values() if group.path.rpartition("/")[0] == above.path]
        page = paging.offset(
            request, parameters.read(request), found, lambda group: self._show_group(group, request.base_url)
        )
        return page.with_headers(caller.headers)

    async def show_group(self, request: http.Request) -> http.Response:
        caller = self.gate.caller(request)
        group = self.group(request.params["id"], caller)
        return http.json_response(self._show_group(group, request.base_url), headers=caller.headers)

    async def list_group_projects(self, request: http.Request) -> http.Response:
        """`include_subgroups` is false unless asked for; `archived` filters when it is given."""
        caller = self.gate.caller(request)
        self.gate.spend(caller, "group_projects", self.gate.settings.rate_group_projects)
        group = self.group(request.params["id"], caller)
        deep = parameters.read(request).flag("include_subgroups")
        found = [
            one for one in self.known() if one.owner == group.path or (deep and one.name.startswith(group.path + "/"))
        ]
        return self._listed(request, caller, found)

    async def list_projects(self, request: http.Request) -> http.Response:
        caller = self.gate.caller(request)
        return self._listed(request, caller, self.known())

    def _listed(self, request: http.Request, caller: access.Caller, found: list[world.Repository]) -> http.Response:
        params = parameters.read(request)
        archived = params.flag("archived") if params.raw("archived") is not None else None
        search = (params.text("search") or "").lower()
        chosen = {
            one.id: one
            for one in found
            if caller.sees(one.name)
            and (archived is None or bool(one.extra.get("archived")) == archived)
            and search in one.name.lower()
        }
        simple = params.flag("simple")

        def show(id: int) -> dict[str, Any]:
            return self._show_project(chosen[id], request.base_url, simple=simple)

        if paging.wants_keyset(params):
            return paging.keyset(request, params, list(chosen), show, cursor=False).with_headers(caller.headers)
        ids = sorted(chosen, reverse=params.choice("sort", ("asc", "desc"), "desc") == "desc")
        return paging.offset(request, params, ids, show).with_headers(caller.headers)

    async def create_project(self, request: http.Request) -> http.Response:
        caller = self.gate.caller(request)
        params = parameters.read(request)
        name = params.text("path") or params.text("name")
        if not name:
            raise parameters.invalid("name, path are missing, at least one parameter must be provided")
        caller.need(access.MAINTAINER)
        namespace = params.text("namespace_id")
        owner = self.group(namespace, caller).path if namespace else caller.user
        path = f"{owner}/{name}"
        if (access.FORGE, path) in self.world.repositories:
            raise http.Refusal(http.json_response({"message": {"path": ["has already been taken"]}}, 400))
        project = self.make_project(path)
        return http.json_response(self._show_project(project, request.base_url), 201, headers=caller.headers)

    async def show_project(self, request: http.Request) -> http.Response:
        project, caller = self.of(request)
        self.gate.spend(caller, "project", self.gate.settings.rate_project)
        return http.json_response(self._show_project(project, request.base_url), headers=caller.headers)

    def _show_group(self, group: Group, base_url: str) -> dict[str, Any]:
        above = group.path.rpartition("/")[0]
        return {
            "id": group.id,
            "name": group.path.rsplit("/", 1)[-1],
            "path": group.path.rsplit("/", 1)[-1],
            "full_path": group.path,
            "full_name": group.path.replace("/", " / "),
            "visibility": "private",
            "parent_id": self.groups[above].id if above else None,
            "web_url": f"{base_url}/groups/{group.path}",
        }

    def _show_project(self, project: world.Repository, base_url: str, *, simple: bool = False) -> dict[str, Any]:
        group = self.groups[project.owner]
        latest = self.jobs.ids(project.id)
        newest = self.jobs.get(latest[-1]) if latest else None
        shown: dict[str, Any] = {
            "id": project.id,
            "name": project.short,
            "path": project.short,
            "name_with_namespace": project.name.replace("/", " / "),
            "path_with_namespace": project.name,
            "default_branch": project.default_branch,
            "web_url": f"{base_url}/{project.name}",
            "http_url_to_repo": f"{base_url}/{project.name}.git",
            "namespace": {
                "id": group.id,
                "name": group.path.rsplit("/", 1)[-1],
                "path": group.path.rsplit("/", 1)[-1],
                "kind": "group",
                "full_path": group.path,
            },
            "created_at": views.iso(project.extra["created_at"]),
            "last_activity_at": views.iso(newest.updated_at if newest is not None else self.world.now()),
        }
        if not simple:
            shown |= {
                "visibility": "private" if project.private else "public",
                "archived": bool(project.extra.get("archived")),
                "jobs_enabled": True,
                "builds_access_level": "enabled",
                "shared_runners_enabled": True,
                "group_runners_enabled": True,
                # Registration tokens are off: the key is there and null, which CML takes for "use /user/runners".
                "runners_token": None,
                "ci_forward_deployment_enabled": True,
            }
        return shown

    async def archive(self, request: http.Request) -> http.Response:
        """The files of a project's directory; also for a job, by its JOB-TOKEN, since there is no Git server here."""
        job_token = request.header("job-token")
        if job_token:
            project = self.project(request.params["id"], None)
            ids = self.jobs.ids(project.id, ("pending", "running", "canceling"))
            if not any((job := self.jobs.get(id)) is not None and job.token == job_token for id in ids):
                raise parameters.refuse("404 Project Not Found", 404)
        else:
            project, _ = self.of(request, "read_repository")
        if project.directory is None:
            raise parameters.refuse("404 File Not Found", 404)
        return http.Response(200, packed(pathlib.Path(project.directory)), {"Content-Type": "application/gzip"})


def packed(directory: pathlib.Path) -> bytes:
    """A tarball of the plain files below a directory, without `.git`."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for path in sorted(directory.rglob("*")):
            relative = path.relative_to(directory)
            if path.is_file() and not path.is_symlink() and ".git" not in relative.parts:
                archive.add(path, arcname=str(relative), recursive=False)
    return buffer.getvalue()
