"""REST: users, repositories, pull requests, comments, check runs, statuses, webhooks: what reports need."""

from __future__ import annotations

import json
import re
from typing import Any

from runnerd.simulator import http, world
from runnerd.simulator.github import auth, entities, limits, payloads, rest, rest_runs, state, webhooks

_REPO = "/repos/{owner}/{repo}"
#: longest body of a comment
LONGEST_BODY = 65_536
_CONCLUSIONS = (
    "action_required cancelled failure neutral success skipped stale timed_out".split()  # noqa: SIM905
)


class RepositoryEndpoints:
    """Endpoints of what people see in a repository."""

    def __init__(self, tables: state.State, frame: rest.Frame, hooks: webhooks.Webhooks, budget: limits.Limits) -> None:
        self._state = tables
        self._world = tables.world
        self._frame = frame
        self._hooks = hooks
        self._limits = budget

    def routes(self) -> list[http.Route]:
        route = self._frame.route
        found = [
            route("GET", "/rate_limit", self.rate_limit, free=True),
            route("GET", "/meta", self.meta),
            route("GET", "/user", self.me),
            route("GET", "/users/{login}", self.user),
            route("GET", "/orgs/{org}", self.org),
            route("GET", "/orgs/{org}/repos", self.org_repos),
            route("GET", "/installation/repositories", self.installation_repos),
            route("GET", _REPO, self.repo),
            route("GET", _REPO + "/pulls", self.pulls),
            route("POST", _REPO + "/pulls", self.create_pull),
            route("GET", _REPO + "/pulls/{number}", self.pull),
            route("GET", _REPO + "/commits/{sha}/pulls", self.commit_pulls),
            route("GET", _REPO + "/issues/{number}/comments", self.issue_comments),
            route("POST", _REPO + "/issues/{number}/comments", self.create_issue_comment),
            route("GET", _REPO + "/issues/comments/{id}", self.issue_comment),
            route("PATCH", _REPO + "/issues/comments/{id}", self.update_issue_comment),
            route("DELETE", _REPO + "/issues/comments/{id}", self.delete_comment),
            route("GET", _REPO + "/commits/{sha}/comments", self.commit_comments),
            route("POST", _REPO + "/commits/{sha}/comments", self.create_commit_comment),
            route("GET", _REPO + "/comments/{id}", self.commit_comment),
            route("PATCH", _REPO + "/comments/{id}", self.update_commit_comment),
            route("DELETE", _REPO + "/comments/{id}", self.delete_comment),
            route("POST", _REPO + "/check-runs", self.create_check),
            route("PATCH", _REPO + "/check-runs/{id}", self.update_check),
            route("GET", _REPO + "/check-runs/{id}", self.check),
            route("GET", _REPO + "/commits/{sha}/check-runs", self.checks),
            route("POST", _REPO + "/statuses/{sha}", self.create_status),
            route("GET", _REPO + "/commits/{sha}/statuses", self.list_statuses),
        ]
        for base in ("/orgs/{org}/hooks", _REPO + "/hooks"):
            found += [
                route("GET", base, self.list_hooks),
                route("POST", base, self.create_hook),
                route("DELETE", base + "/{hook}", self.delete_hook),
                route("POST", base + "/{hook}/pings", self.ping_hook),
                route("GET", base + "/{hook}/deliveries", self.deliveries),
                route("GET", base + "/{hook}/deliveries/{delivery}", self.delivery),
                route("POST", base + "/{hook}/deliveries/{delivery}/attempts", self.redeliver),
            ]
        return found

    async def rate_limit(self, request: http.Request, principal: auth.Principal) -> http.Response:
        return http.json_response(self._limits.overview(principal))

    async def meta(self, request: http.Request, principal: auth.Principal) -> http.Response:
        version = "3.19.2" if self._state.options.ghes_acquire else None
        body: dict[str, Any] = {"verifiable_password_authentication": True, "hooks": ["127.0.0.0/8"]}
        return http.json_response({**body, "installed_version": version} if version else body)

    async def me(self, request: http.Request, principal: auth.Principal) -> http.Response:
        if principal.kind != "pat":
            raise state.refuse(403, "Resource not accessible by integration")
        scopes = {"X-OAuth-Scopes": ", ".join(principal.scopes)}
        body = payloads.full_user(request.base_url, principal.user)
        return http.json_response(body, headers=scopes)

    async def user(self, request: http.Request, principal: auth.Principal) -> http.Response:
        login = request.params["login"]
        if not re.fullmatch(r"[A-Za-z0-9-]{1,39}(\[bot\])?", login):
            raise state.refuse(404, "Not Found")
        kind = "Bot" if login.endswith("[bot]") else "User"
        return http.json_response(payloads.full_user(request.base_url, login, kind=kind))

    async def org(self, request: http.Request, principal: auth.Principal) -> http.Response:
        owner = self._owner(request)
        return http.json_response(payloads.organization(request.base_url, owner))

    async def org_repos(self, request: http.Request, principal: auth.Principal) -> http.Response:
        owner = self._owner(request)
        return rest.paged(
            request,
            self._repos_of(owner),
            lambda repo: payloads.repository(request.base_url, repo),
            key=None,
        )

    async def installation_repos(self, request: http.Request, principal: auth.Principal) -> http.Response:
        if principal.kind != "installation":
            raise state.refuse(
                403,
                "You must authenticate with an installation access token in order to list repositories for an "
                "installation.",
            )
        return rest.paged(
            request,
            self._repos_of(str(principal.extra["owner"])),
            lambda repo: payloads.repository(request.base_url, repo),
            key="repositories",
        )

    async def repo(self, request: http.Request, principal: auth.Principal) -> http.Response:
        return http.json_response(payloads.repository(request.base_url, self._repo(request, principal)))

    # Pull requests

    async def pulls(self, request: http.Request, principal: auth.Principal) -> http.Response:
        repo = self._repo(request, principal)
        return self._pulls(request, repo, self._pulls_of(repo.name))

    async def create_pull(self, request: http.Request, principal: auth.Principal) -> http.Response:
        repo = self._repo(request, principal, write=True)
        body = state.read_json(request)
        for key in ("head", "base"):
            if not isinstance(body.get(key), str) or not body[key]:
                raise state.refuse(422, f"Invalid request.\n\n{key} wasn't supplied.")
        head = str(body["head"]).rpartition(":")[2]
        open_pulls = [pull for pull in self._pulls_of(repo.name) if pull.state == "open"]
        if any((pull.head_ref, pull.base_ref) == (head, body["base"]) for pull in open_pulls):
            raise rest.validation(f"Validation Failed: A pull request already exists for {repo.owner}:{head}.")
        number = max((pull.number for pull in self._pulls_of(repo.name)), default=0) + 1
        pull = self._world.pull_request("github", repo.name, number)
        pull.title, pull.head_ref, pull.base_ref = str(body.get("title") or head), head, str(body["base"])
        return self._created(request, payloads.full_pull(request.base_url, pull, repo, 0))

    async def commit_pulls(self, request: http.Request, principal: auth.Principal) -> http.Response:
        repo = self._repo(request, principal)
        sha = request.params["sha"]
        return self._pulls(request, repo, [pull for pull in self._pulls_of(repo.name) if pull.sha == sha])

    async def pull(self, request: http.Request, principal: auth.Principal) -> http.Response:
        repo = self._repo(request, principal)
        found = self._world.pulls.get(("github", repo.name, rest.number(request.params["number"])))
        if found is None:
            raise state.refuse(404, "Not Found")
        comments = len(self._comments(repo.name, f"pull/{found.number}"))
        return http.json_response(payloads.full_pull(request.base_url, found, repo, comments))

    # Comments

    async def issue_comments(self, request: http.Request, principal: auth.Principal) -> http.Response:
        repo = self._repo(request, principal)
        found = self._comments(repo.name, self._issue(request, repo.name))
        return rest.paged(request, found, lambda item: payloads.issue_comment(request.base_url, item), key=None)

    async def create_issue_comment(self, request: http.Request, principal: auth.Principal) -> http.Response:
        repo = self._repo(request, principal, write=True)
        target = self._issue(request, repo.name)
        comment = self._comment(principal, repo.name, target, _comment_body(request))
        return self._created(request, payloads.issue_comment(request.base_url, comment))

    async def issue_comment(self, request: http.Request, principal: auth.Principal) -> http.Response:
        comment = self._find(request, principal, commit=False)
        return http.json_response(payloads.issue_comment(request.base_url, comment))

    async def update_issue_comment(self, request: http.Request, principal: auth.Principal) -> http.Response:
        comment = self._update(request, principal, commit=False)
        return http.json_response(payloads.issue_comment(request.base_url, comment))

    async def commit_comments(self, request: http.Request, principal: auth.Principal) -> http.Response:
        repo = self._repo(request, principal)
        found = self._comments(repo.name, f"commit/{request.params['sha']}")
        return rest.paged(request, found, lambda item: payloads.commit_comment(request.base_url, item), key=None)

    async def create_commit_comment(self, request: http.Request, principal: auth.Principal) -> http.Response:
        repo = self._repo(request, principal, write=True)
        sha = self._sha(request)
        comment = self._comment(principal, repo.name, f"commit/{sha}", _comment_body(request))
        return self._created(request, payloads.commit_comment(request.base_url, comment))

    async def commit_comment(self, request: http.Request, principal: auth.Principal) -> http.Response:
        comment = self._find(request, principal, commit=True)
        return http.json_response(payloads.commit_comment(request.base_url, comment))

    async def update_commit_comment(self, request: http.Request, principal: auth.Principal) -> http.Response:
        if principal.kind == "job":
            # cml.dev, reference of `cml comment`: the default token cannot update commit comments.
            raise rest.validation("Validation Failed: commit_id has been locked", field="commit_id")
        comment = self._update(request, principal, commit=True)
        return http.json_response(payloads.commit_comment(request.base_url, comment))

    async def delete_comment(self, request: http.Request, principal: auth.Principal) -> http.Response:
        comment = self._find(request, principal, commit="/issues/" not in request.template, write=True)
        del self._world.comments[comment.id]
        self._world.changed("comments")
        return http.empty(204)

    # Checks and statuses

    async def create_check(self, request: http.Request, principal: auth.Principal) -> http.Response:
        repo = self._repo(request, principal, write=True)
        if principal.kind not in ("installation", "job"):
            raise state.refuse(403, "You must authenticate via a GitHub App.")
        body = state.read_json(request)
        for key in ("name", "head_sha"):
            if not isinstance(body.get(key), str) or not body[key]:
                raise state.refuse(422, f"Invalid request.\n\n{key} wasn't supplied.")
        check = entities.CheckRun(
            id=self._world.next_id("github-check", 3_000_001),
            repo=repo.name,
            name=body["name"],
            head_sha=body["head_sha"],
            status="queued",
            conclusion=None,
            started_at=None,
            completed_at=None,
            output={},
        )
        self._fill_check(check, body)
        self._state.checks[check.id] = check
        return self._created(request, payloads.check_run(request.base_url, check))

    async def update_check(self, request: http.Request, principal: auth.Principal) -> http.Response:
        check = self._check(request, principal, write=True)
        self._fill_check(check, state.read_json(request))
        return http.json_response(payloads.check_run(request.base_url, check))

    async def check(self, request: http.Request, principal: auth.Principal) -> http.Response:
        return http.json_response(payloads.check_run(request.base_url, self._check(request, principal)))

    async def checks(self, request: http.Request, principal: auth.Principal) -> http.Response:
        repo = self._repo(request, principal)
        found = [
            check
            for check in self._state.checks.values()
            if (check.repo, check.head_sha) == (repo.name, request.params["sha"])
        ]
        return rest.paged(request, found, lambda item: payloads.check_run(request.base_url, item), key="check_runs")

    async def create_status(self, request: http.Request, principal: auth.Principal) -> http.Response:
        repo = self._repo(request, principal, write=True)
        body = state.read_json(request)
        if body.get("state") not in ("error", "failure", "pending", "success"):
            raise rest.validation("Validation Failed", field="state")
        status = entities.CommitStatus(
            id=self._world.next_id("github-status", 4_000_001),
            repo=repo.name,
            sha=self._sha(request),
            state=body["state"],
            context=str(body.get("context") or "default"),
            description=body.get("description"),
            target_url=body.get("target_url"),
            created_at=self._world.now(),
        )
        self._state.statuses.append(status)
        return self._created(request, payloads.status(request.base_url, status))

    async def list_statuses(self, request: http.Request, principal: auth.Principal) -> http.Response:
        repo = self._repo(request, principal)
        sha = request.params["sha"]
        found = [item for item in reversed(self._state.statuses) if (item.repo, item.sha) == (repo.name, sha)]
        return rest.paged(request, found, lambda item: payloads.status(request.base_url, item), key=None)

    # Webhooks

    async def list_hooks(self, request: http.Request, principal: auth.Principal) -> http.Response:
        scope = self._hook_scope(request, principal)
        found = [hook for hook in self._world.hooks.values() if hook.forge == "github" and hook.scope == scope]
        return rest.paged(request, found, lambda hook: _hook_json(request, hook), key=None)

    async def create_hook(self, request: http.Request, principal: auth.Principal) -> http.Response:
        scope = self._hook_scope(request, principal)
        body = state.read_json(request)
        config = body.get("config") or {}
        if not isinstance(config, dict) or not str(config.get("url", "")).startswith("http"):
            raise rest.validation("Validation Failed", field="url", code="missing_field")
        events = tuple(str(event) for event in body.get("events") or ["push"])
        same = [hook for hook in self._world.hooks.values() if hook.forge == "github" and hook.scope == scope]
        if any(sum(event in hook.events for hook in same) >= 20 for event in events):
            raise rest.validation("The hook limit of 20 for this event has been reached", field="events")
        hook = world.Hook(
            id=self._world.next_id("github-hook", 9001),
            forge="github",
            url=str(config["url"]),
            secret=str(config.get("secret") or ""),
            scope=scope,
            events=events,
        )
        self._world.hooks[hook.id] = hook
        self._hooks.ping(hook)
        return http.json_response(_hook_json(request, hook), 201)

    async def delete_hook(self, request: http.Request, principal: auth.Principal) -> http.Response:
        del self._world.hooks[self._hook(request, principal).id]
        return http.empty(204)

    async def ping_hook(self, request: http.Request, principal: auth.Principal) -> http.Response:
        self._hooks.ping(self._hook(request, principal))
        return http.empty(204)

    async def deliveries(self, request: http.Request, principal: auth.Principal) -> http.Response:
        hook = self._hook(request, principal)
        found = self._hooks.of_hook(hook.id)
        wanted = request.param("status")
        if wanted in ("success", "failure"):
            found = [item for item in found if (item.status == "OK") == (wanted == "success")]
        cursor = request.param("cursor")
        if cursor:
            found = [item for item in found if str(item.id) < cursor and item.id < rest.number(cursor)]
        size = rest.page_of(request).size
        headers = {}
        if len(found) > size:
            url = f"{request.base_url}{request.path}?per_page={size}&cursor={found[size - 1].id}"
            headers["Link"] = f'<{url}>; rel="next"'
        return http.json_response([payloads.delivery(item) for item in found[:size]], headers=headers)

    async def delivery(self, request: http.Request, principal: auth.Principal) -> http.Response:
        item = self._delivery(request, principal)
        body = {
            **payloads.delivery(item),
            "url": self._world.hooks[item.hook_id].url,
            "request": {"headers": item.headers, "payload": json.loads(item.body)},
            "response": {"headers": {}, "payload": None},
        }
        return http.json_response(body)

    async def redeliver(self, request: http.Request, principal: auth.Principal) -> http.Response:
        item = self._delivery(request, principal)
        if item.delivered_at < self._world.now() - 3 * 86_400:
            raise rest.validation("The delivery is too old to be attempted again", field="delivery_id")
        self._hooks.redeliver(item)
        return http.json_response({}, 202)

    # Parts

    def _owner(self, request: http.Request) -> str:
        owner = self._state.canonical_scope(request.params["org"])
        if owner is None:
            raise state.refuse(404, "Not Found")
        return owner

    def _repos_of(self, owner: str) -> list[world.Repository]:
        return [
            repo
            for (forge, _), repo in self._world.repositories.items()
            if forge == "github" and repo.owner.lower() == owner.lower()
        ]

    def _repo(self, request: http.Request, principal: auth.Principal, *, write: bool = False) -> world.Repository:
        repo = self._state.known_repository(request.params["owner"], request.params["repo"])
        comments = write and "comments" in request.template
        if comments and principal.kind == "pat" and "public_repo" in principal.scopes:
            write = False
        rest_runs.require_access(principal, repo.name, private=repo.private, write=write)
        return repo

    def _pulls_of(self, repo: str) -> list[world.PullRequest]:
        return [pull for (forge, name, _), pull in self._world.pulls.items() if (forge, name) == ("github", repo)]

    def _pulls(self, request: http.Request, repo: world.Repository, found: list[world.PullRequest]) -> http.Response:
        wanted = request.param("state", "open")
        if wanted != "all":
            found = [pull for pull in found if pull.state == wanted]
        found.sort(key=lambda pull: pull.number, reverse=True)
        return rest.paged(request, found, lambda item: payloads.pull(request.base_url, item, repo), key=None)

    def _issue(self, request: http.Request, repo: str) -> str:
        number = rest.number(request.params["number"])
        if ("github", repo, number) in self._world.pulls:
            return f"pull/{number}"
        if (repo, number) in self._state.issues:
            return f"issue/{number}"
        raise state.refuse(404, "Not Found")

    def _sha(self, request: http.Request) -> str:
        sha = request.params["sha"]
        if not re.fullmatch(r"[0-9a-f]{40}", sha):
            raise state.refuse(422, f"No commit found for SHA: {sha}")
        return sha

    def _comments(self, repo: str, target: str) -> list[world.Comment]:
        return [
            item
            for item in self._world.comments.values()
            if (item.forge, item.repo, item.target) == ("github", repo, target)
        ]

    def _comment(self, principal: auth.Principal, repo: str, target: str, body: str) -> world.Comment:
        id = self._world.next_id("github-comment", 2_000_000_001)
        return self._world.add_comment("github", repo, target, body, user=principal.user, id=id)

    def _find(
        self, request: http.Request, principal: auth.Principal, *, commit: bool, write: bool = False
    ) -> world.Comment:
        repo = self._repo(request, principal, write=write)
        comment = self._world.comments.get(rest.number(request.params["id"]))
        if comment is None or (comment.forge, comment.repo) != ("github", repo.name):
            raise state.refuse(404, "Not Found")
        if comment.target.startswith("commit/") != commit:
            raise state.refuse(404, "Not Found")
        return comment

    def _update(self, request: http.Request, principal: auth.Principal, *, commit: bool) -> world.Comment:
        comment = self._find(request, principal, commit=commit, write=True)
        comment.body = _comment_body(request)
        comment.updated_at = self._world.now()
        self._world.changed("comments")
        return comment

    def _created(self, request: http.Request, body: dict[str, Any]) -> http.Response:
        return http.json_response(body, 201, headers={"Location": str(body["url"])})

    def _check(self, request: http.Request, principal: auth.Principal, *, write: bool = False) -> entities.CheckRun:
        repo = self._repo(request, principal, write=write)
        check = self._state.checks.get(rest.number(request.params["id"]))
        if check is None or check.repo != repo.name:
            raise state.refuse(404, "Not Found")
        return check

    def _fill_check(self, check: entities.CheckRun, body: dict[str, Any]) -> None:
        status, conclusion = body.get("status"), body.get("conclusion")
        if status not in (None, "queued", "in_progress", "completed"):
            raise rest.validation("Validation Failed", field="status")
        if conclusion is not None and conclusion not in _CONCLUSIONS:
            raise rest.validation("Validation Failed", field="conclusion")
        if status == "completed" and conclusion is None and check.conclusion is None:
            raise rest.validation("Validation Failed", field="conclusion", code="missing_field")
        output = body.get("output")
        if output is not None and (not isinstance(output, dict) or not output.get("summary")):
            raise rest.validation("Validation Failed", field="output", code="missing_field")
        now = world.iso(self._world.now())
        if conclusion is not None:
            check.status, check.conclusion = "completed", conclusion
            check.completed_at = body.get("completed_at") or now
        elif status is not None:
            check.status = status
        check.started_at = body.get("started_at") or check.started_at or now
        check.output = output or check.output
        check.name = body.get("name") or check.name
        check.details_url = body.get("details_url") or check.details_url
        check.external_id = body.get("external_id") or check.external_id

    def _hook_scope(self, request: http.Request, principal: auth.Principal) -> str:
        if "org" in request.params:
            owner = self._owner(request)
            if principal.kind == "pat" and "admin:org_hook" not in principal.scopes:
                raise state.refuse(404, "Not Found")
            return owner
        return self._repo(request, principal, write=True).name

    def _hook(self, request: http.Request, principal: auth.Principal) -> world.Hook:
        scope = self._hook_scope(request, principal)
        hook = self._world.hooks.get(rest.number(request.params["hook"]))
        if hook is None or hook.forge != "github" or hook.scope not in ("", scope):
            raise state.refuse(404, "Not Found")
        return hook

    def _delivery(self, request: http.Request, principal: auth.Principal) -> entities.Delivery:
        hook = self._hook(request, principal)
        item = self._state.deliveries.get(rest.number(request.params["delivery"]))
        if item is None or item.hook_id != hook.id:
            raise state.refuse(404, "Not Found")
        return item


def _comment_body(request: http.Request) -> str:
    body = state.read_json(request).get("body")
    if not isinstance(body, str):
        raise state.refuse(422, "Invalid request.\n\nbody wasn't supplied.")
    if not body.strip():
        raise rest.validation("Validation Failed", field="body", code="missing_field")
    if len(body) > LONGEST_BODY:
        raise rest.validation(f"Validation Failed: body is too long (maximum is {LONGEST_BODY} characters)")
    return body


def _hook_json(request: http.Request, hook: world.Hook) -> dict[str, Any]:
    base = f"/orgs/{hook.scope}" if "/" not in hook.scope else f"/repos/{hook.scope}"
    own = f"{request.base_url}{rest.API}{base}/hooks/{hook.id}"
    return {
        "id": hook.id,
        "url": own,
        "ping_url": f"{own}/pings",
        "deliveries_url": f"{own}/deliveries",
        "name": "web",
        "events": list(hook.events),
        "active": True,
        "config": {"url": hook.url, "content_type": "json", "secret": "********", "insecure_ssl": "0"},
        "created_at": "2020-01-01T00:00:00Z",
        "updated_at": "2020-01-01T00:00:00Z",
        "type": "Organization" if "/" not in hook.scope else "Repository",
    }
