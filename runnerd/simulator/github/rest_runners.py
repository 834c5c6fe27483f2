"""REST: tokens for runners, JIT configurations, runners and runner groups, at every scope."""

from __future__ import annotations

from typing import Any

from runnerd.simulator import http, world
from runnerd.simulator.github import actions_frame, auth, entities, payloads, rest, run_payloads, runners, state

#: how each kind of scope is spelt in paths
_BASES = ("/orgs/{org}", "/repos/{owner}/{repo}", "/enterprises/{enterprise}")


class RunnerEndpoints:
    """Endpoints of self-hosted runners."""

    def __init__(
        self, tables: state.State, credentials: auth.Auth, frame: rest.Frame, registry: runners.Registry
    ) -> None:
        self._state = tables
        self._world = tables.world
        self._auth = credentials
        self._frame = frame
        self._registry = registry

    def routes(self) -> list[http.Route]:
        route = self._frame.route
        found = [
            route("POST", "/app/installations/{id}/access_tokens", self.access_token),
            route("GET", "/app", self.app),
            route("GET", "/app/installations", self.installations),
            route("GET", "/orgs/{org}/installation", self.org_installation),
            route("GET", "/repos/{owner}/{repo}/installation", self.repo_installation),
            http.Route("POST", rest.API + "/actions/runner-registration", self.runner_registration, "github"),
        ]
        for base in _BASES:
            runners_base = base + "/actions/runners"
            found += [
                route("POST", f"{runners_base}/registration-token", self.registration_token),
                route("POST", f"{runners_base}/remove-token", self.registration_token),
                route("POST", f"{runners_base}/generate-jitconfig", self.generate_jit_config),
                route("GET", runners_base, self.list_runners),
                route("GET", f"{runners_base}/downloads", self.downloads),
                route("GET", f"{runners_base}/deprecations/{{version}}", self.deprecation),
                route("GET", f"{runners_base}/{{id}}", self.get_runner),
                route("DELETE", f"{runners_base}/{{id}}", self.delete_runner),
            ]
        for base in _BASES[::2]:
            groups = base + "/actions/runner-groups"
            found += [
                route("GET", groups, self.list_groups),
                route("POST", groups, self.create_group),
                route("GET", f"{groups}/{{id}}", self.get_group),
                route("DELETE", f"{groups}/{{id}}", self.delete_group),
            ]
        return found

    # Apps

    async def app(self, request: http.Request, principal: auth.Principal) -> http.Response:
        _require_app(principal)
        return http.json_response(
            {
                "id": auth.APP_ID,
                "slug": "runnerd",
                "client_id": auth.CLIENT_ID,
                "node_id": payloads.node_id("App", auth.APP_ID),
                "owner": payloads.user(request.base_url, "octocat"),
                "name": "runnerd",
                "description": "",
                "external_url": request.base_url,
                "html_url": f"{request.base_url}/apps/runnerd",
                "created_at": "2020-01-01T00:00:00Z",
                "updated_at": "2020-01-01T00:00:00Z",
                "permissions": {"actions": "write", "metadata": "read"},
                "events": ["workflow_job"],
                "installations_count": len(self._auth.installations),
            }
        )

    async def access_token(self, request: http.Request, principal: auth.Principal) -> http.Response:
        _require_app(principal)
        state.read_json(request)
        token = self._auth.mint_installation(rest.number(request.params["id"]))
        return http.json_response(
            {
                "token": token.value,
                "expires_at": world.iso(token.expires_at),
                "permissions": {"actions": "write", "metadata": "read", "organization_self_hosted_runners": "write"},
                "repository_selection": "all",
            },
            201,
        )

    async def installations(self, request: http.Request, principal: auth.Principal) -> http.Response:
        _require_app(principal)
        for owner in sorted(self._state.owners):
            self._auth.installation_of(owner)
        items = sorted(self._auth.installations.items())
        return rest.paged(request, items, lambda item: self._installation(request, item[0]), key=None)

    async def org_installation(self, request: http.Request, principal: auth.Principal) -> http.Response:
        _require_app(principal)
        owner = self._state.canonical_scope(request.params["org"])
        if owner is None:
            raise state.refuse(404, "Not Found")
        return http.json_response(self._installation(request, owner))

    async def repo_installation(self, request: http.Request, principal: auth.Principal) -> http.Response:
        _require_app(principal)
        repo = self._state.known_repository(request.params["owner"], request.params["repo"])
        return http.json_response(self._installation(request, repo.owner.lower()))

    # Registration

    async def registration_token(self, request: http.Request, principal: auth.Principal) -> http.Response:
        value, expires = self._auth.mint_registration(self._scope(request, principal))
        return http.json_response({"token": value, "expires_at": world.iso(expires)}, 201)

    async def runner_registration(self, request: http.Request) -> http.Response:
        """The second step of the token chain: it takes `RemoteAuth` and gives URL and admin token."""
        granted = self._auth.registration_scope(request)
        body = state.read_json(request)
        url = body.get("url")
        if not isinstance(url, str) or body.get("runner_event") not in ("register", "remove"):
            raise state.refuse(422, "Invalid request. url and runner_event are required.")
        path = url.partition("://")[2].partition("/")[2].strip("/")
        scope = self._state.canonical_scope(path) if path else None
        if scope != granted:
            raise state.refuse(404, "Not Found")
        return http.json_response(
            {
                "url": f"{request.base_url}/_actions/{actions_frame.tenant_of(granted)}/",
                "token": self._auth.mint_admin(granted),
                "token_schema": "OAuthAccessToken",
                "use_v2_flow": True,
            }
        )

    async def generate_jit_config(self, request: http.Request, principal: auth.Principal) -> http.Response:
        scope = self._scope(request, principal)
        if self._state.world.repository("github", scope).extra.get("runners_disabled") if "/" in scope else False:
            raise state.refuse(403, "")
        body = state.read_json(request)
        name, group_id, labels = body.get("name"), body.get("runner_group_id"), body.get("labels")
        for key, value in {"name": name, "runner_group_id": group_id, "labels": labels}.items():
            if value is None:
                raise state.refuse(422, f"Invalid request.\n\nobject is missing required key: {key}")
        if not isinstance(name, str) or not 1 <= len(name) <= 64:
            raise rest.validation("Validation Failed", field="name")
        if not isinstance(group_id, int) or isinstance(group_id, bool):
            raise state.refuse(422, "Invalid request.\n\nrunner_group_id is not an integer")
        if (
            not isinstance(labels, list)
            or not 1 <= len(labels) <= 100
            or not all(isinstance(label, str) and label and "," not in label for label in labels)
        ):
            raise state.refuse(422, "Invalid request.\n\nlabels must have 1 to 100 items, each a name")
        if group_id == state.HOSTED_GROUP and "/" not in scope:
            raise state.refuse(403, "Runners cannot be registered in the group of hosted runners.")
        if self._state.group(scope, group_id) is None:
            raise state.refuse(404, "Not Found")
        try:
            runner = self._registry.register(
                scope,
                name,
                labels=[str(label) for label in labels],
                group_id=group_id,
                work_folder=str(body.get("work_folder") or "_work"),
            )
        except runners.NameTaken:
            raise state.refuse(409, f"Already exists - A runner with the name {name} already exists.") from None
        except runners.TooMany:
            raise state.refuse(
                429, "You have exceeded a secondary rate limit.", headers={"Retry-After": "60"}
            ) from None
        return http.json_response(
            {
                "runner": run_payloads.runner(runner),
                "encoded_jit_config": self._registry.jit_config(runner, base_url=request.base_url),
            },
            201,
        )

    # Runners

    async def list_runners(self, request: http.Request, principal: auth.Principal) -> http.Response:
        scope = self._scope(request, principal)
        if request.param("name"):
            one = self._registry.by_name(scope, request.param("name"))
            found = [one] if one is not None else []
        else:
            found = self._registry.of_scope(scope)
        return rest.paged(request, found, run_payloads.runner, key="runners")

    async def get_runner(self, request: http.Request, principal: auth.Principal) -> http.Response:
        return http.json_response(run_payloads.runner(self._runner(request, principal)))

    async def delete_runner(self, request: http.Request, principal: auth.Principal) -> http.Response:
        runner = self._runner(request, principal)
        try:
            self._registry.remove(runner)
        except runners.StillRunning:
            raise state.refuse(422, f'Bad request - Runner "{runner.name}" is still running a job"') from None
        return http.empty(204)

    async def downloads(self, request: http.Request, principal: auth.Principal) -> http.Response:
        self._scope(request, principal)
        version = "2.336.0"
        return http.json_response(
            [
                {
                    "os": "linux",
                    "architecture": architecture,
                    "download_url": f"{request.base_url}/actions/runner/releases/download/v{version}/"
                    f"actions-runner-linux-{architecture}-{version}.tar.gz",
                    "filename": f"actions-runner-linux-{architecture}-{version}.tar.gz",
                    "sha256_checksum": "0" * 64,
                }
                for architecture in ("x64", "arm64")
            ]
        )

    async def deprecation(self, request: http.Request, principal: auth.Principal) -> http.Response:
        self._scope(request, principal)
        return http.json_response(
            {
                "runner_version": request.params["version"],
                "registration_deprecates_at": None,
                "runtime_deprecates_at": None,
            }
        )

    # Groups

    async def list_groups(self, request: http.Request, principal: auth.Principal) -> http.Response:
        scope = self._scope(request, principal)
        groups = self._state.groups_of(scope)
        return rest.paged(request, groups, lambda group: _group_json(request, group), key="runner_groups")

    async def create_group(self, request: http.Request, principal: auth.Principal) -> http.Response:
        scope = self._scope(request, principal)
        body = state.read_json(request)
        name = body.get("name")
        if not isinstance(name, str) or not name:
            raise state.refuse(422, "Invalid request.\n\nobject is missing required key: name")
        if any(group.name.lower() == name.lower() for group in self._state.groups_of(scope)):
            raise state.refuse(409, "Group name already exists in this organization.")
        group = self._state.add_group(
            scope,
            name,
            allows_public=bool(body.get("allows_public_repositories", False)),
            visibility=str(body.get("visibility") or "all"),
        )
        return http.json_response(_group_json(request, group), 201)

    async def get_group(self, request: http.Request, principal: auth.Principal) -> http.Response:
        return http.json_response(_group_json(request, self._group(request, principal)))

    async def delete_group(self, request: http.Request, principal: auth.Principal) -> http.Response:
        group = self._group(request, principal)
        if group.default:
            raise state.refuse(422, "The default runner group cannot be deleted.")
        del self._state.groups[(group.scope, group.id)]
        return http.empty(204)

    # Parts

    def _scope(self, request: http.Request, principal: auth.Principal) -> str:
        """The scope of the path, or 404; refuses who may not administer its runners."""
        params = request.params
        if "org" in params:
            wanted = params["org"]
        elif "repo" in params:
            wanted = f"{params['owner']}/{params['repo']}"
        else:
            wanted = f"enterprises/{params['enterprise']}"
        scope = self._state.canonical_scope(wanted)
        if scope is None:
            raise state.refuse(404, "Not Found")
        self._auth.require_runner_admin(principal, scope)
        return scope

    def _runner(self, request: http.Request, principal: auth.Principal) -> entities.GithubRunner:
        scope = self._scope(request, principal)
        runner = self._state.runners.get(rest.number(request.params["id"]))
        if runner is None or runner.scope != scope:
            raise state.refuse(404, "Not Found")
        return runner

    def _group(self, request: http.Request, principal: auth.Principal) -> entities.Group:
        group = self._state.group(self._scope(request, principal), rest.number(request.params["id"]))
        if group is None:
            raise state.refuse(404, "Not Found")
        return group

    def _installation(self, request: http.Request, owner: str) -> dict[str, Any]:
        return payloads.installation(
            request.base_url,
            self._state,
            id=self._auth.installation_of(owner),
            app_id=auth.APP_ID,
            owner=owner,
        )


def _require_app(principal: auth.Principal) -> None:
    if principal.kind != "app":
        raise state.refuse(401, "A JSON web token could not be decoded")


def _group_json(request: http.Request, group: entities.Group) -> dict[str, Any]:
    own = f"{request.base_url}{rest.API}/orgs/{group.scope}/actions/runner-groups/{group.id}"
    return {
        "id": group.id,
        "name": group.name,
        "visibility": group.visibility,
        "default": group.default,
        "runners_url": f"{own}/runners",
        "hosted_runners_url": f"{own}/hosted-runners",
        "selected_repositories_url": f"{own}/repositories",
        "inherited": False,
        "allows_public_repositories": group.allows_public,
        "restricted_to_workflows": False,
        "selected_workflows": [],
        "workflow_restrictions_read_only": False,
    }
