"""REST: users, repositories, pull requests and comments."""

from __future__ import annotations

import re
from typing import Any

from runnerd.simulator import http, world
from runnerd.simulator.github import auth, limits, payloads, pull_payloads, rest, rest_access, state

#: longest body of a comment
LONGEST_BODY = 65_536


class RepositoryEndpoints:
    """Endpoints of users, repositories, pull requests and comments."""

    def __init__(self, tables: state.State, frame: rest.Frame, budget: limits.Limits) -> None:
        self._state = tables
        self._world = tables.world
        self._frame = frame
        self._limits = budget

    def routes(self) -> list[http.Route]:
        route = self._frame.route
        return [
            route("GET", "/rate_limit", self.rate_limit, free=True),
            route("GET", "/meta", self.meta),
            route("GET", "/user", self.me),
            route("GET", "/users/{login}", self.user),
            route("GET", "/orgs/{org}", self.org),
            route("GET", "/orgs/{org}/repos", self.org_repos),
            route("GET", "/installation/repositories", self.installation_repos),
            route("GET", rest_access.REPOSITORY, self.repo),
            route("GET", rest_access.REPOSITORY + "/pulls", self.pulls),
            route("POST", rest_access.REPOSITORY + "/pulls", self.create_pull),
            route("GET", rest_access.REPOSITORY + "/pulls/{number}", self.pull),
            route("GET", rest_access.REPOSITORY + "/commits/{sha}/pulls", self.commit_pulls),
            route("GET", rest_access.REPOSITORY + "/issues/{number}/comments", self.issue_comments),
            route("POST", rest_access.REPOSITORY + "/issues/{number}/comments", self.create_issue_comment),
            route("GET", rest_access.REPOSITORY + "/issues/comments/{id}", self.issue_comment),
            route("PATCH", rest_access.REPOSITORY + "/issues/comments/{id}", self.update_issue_comment),
            route("DELETE", rest_access.REPOSITORY + "/issues/comments/{id}", self.delete_comment),
            route("GET", rest_access.REPOSITORY + "/commits/{sha}/comments", self.commit_comments),
            route("POST", rest_access.REPOSITORY + "/commits/{sha}/comments", self.create_commit_comment),
            route("GET", rest_access.REPOSITORY + "/comments/{id}", self.commit_comment),
            route("PATCH", rest_access.REPOSITORY + "/comments/{id}", self.update_commit_comment),
            route("DELETE", rest_access.REPOSITORY + "/comments/{id}", self.delete_comment),
        ]

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
        owner = rest_access.owner(self._state, request)
        return http.json_response(payloads.organization(request.base_url, owner))

    async def org_repos(self, request: http.Request, principal: auth.Principal) -> http.Response:
        owner = rest_access.owner(self._state, request)
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
        return http.json_response(
            payloads.repository(request.base_url, rest_access.repository(self._state, request, principal))
        )

    # Pull requests

    async def pulls(self, request: http.Request, principal: auth.Principal) -> http.Response:
        repo = rest_access.repository(self._state, request, principal)
        return self._pulls(request, repo, self._pulls_of(repo.name))

    async def create_pull(self, request: http.Request, principal: auth.Principal) -> http.Response:
        repo = rest_access.repository(self._state, request, principal, write=True)
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
        return rest_access.created(pull_payloads.full_pull(request.base_url, pull, repo, 0))

    async def commit_pulls(self, request: http.Request, principal: auth.Principal) -> http.Response:
        repo = rest_access.repository(self._state, request, principal)
        sha = request.params["sha"]
        return self._pulls(request, repo, [pull for pull in self._pulls_of(repo.name) if pull.sha == sha])

    async def pull(self, request: http.Request, principal: auth.Principal) -> http.Response:
        repo = rest_access.repository(self._state, request, principal)
        found = self._world.pulls.get(("github", repo.name, rest.number(request.params["number"])))
        if found is None:
            raise state.refuse(404, "Not Found")
        comments = len(self._comments(repo.name, f"pull/{found.number}"))
        return http.json_response(pull_payloads.full_pull(request.base_url, found, repo, comments))

    # Comments

    async def issue_comments(self, request: http.Request, principal: auth.Principal) -> http.Response:
        repo = rest_access.repository(self._state, request, principal)
        found = self._comments(repo.name, self._issue(request, repo.name))
        return rest.paged(request, found, lambda item: pull_payloads.issue_comment(request.base_url, item), key=None)

    async def create_issue_comment(self, request: http.Request, principal: auth.Principal) -> http.Response:
        repo = rest_access.repository(self._state, request, principal, write=True)
        target = self._issue(request, repo.name)
        comment = self._comment(principal, repo.name, target, _comment_body(request))
        return rest_access.created(pull_payloads.issue_comment(request.base_url, comment))

    async def issue_comment(self, request: http.Request, principal: auth.Principal) -> http.Response:
        comment = self._find(request, principal, commit=False)
        return http.json_response(pull_payloads.issue_comment(request.base_url, comment))

    async def update_issue_comment(self, request: http.Request, principal: auth.Principal) -> http.Response:
        comment = self._update(request, principal, commit=False)
        return http.json_response(pull_payloads.issue_comment(request.base_url, comment))

    async def commit_comments(self, request: http.Request, principal: auth.Principal) -> http.Response:
        repo = rest_access.repository(self._state, request, principal)
        found = self._comments(repo.name, f"commit/{request.params['sha']}")
        return rest.paged(request, found, lambda item: pull_payloads.commit_comment(request.base_url, item), key=None)

    async def create_commit_comment(self, request: http.Request, principal: auth.Principal) -> http.Response:
        repo = rest_access.repository(self._state, request, principal, write=True)
        sha = rest_access.sha(request)
        comment = self._comment(principal, repo.name, f"commit/{sha}", _comment_body(request))
        return rest_access.created(pull_payloads.commit_comment(request.base_url, comment))

    async def commit_comment(self, request: http.Request, principal: auth.Principal) -> http.Response:
        comment = self._find(request, principal, commit=True)
        return http.json_response(pull_payloads.commit_comment(request.base_url, comment))

    async def update_commit_comment(self, request: http.Request, principal: auth.Principal) -> http.Response:
        if principal.kind == "job":
            # cml.dev, reference of `cml comment`: the default token cannot update commit comments.
            raise rest.validation("Validation Failed: commit_id has been locked", field="commit_id")
        comment = self._update(request, principal, commit=True)
        return http.json_response(pull_payloads.commit_comment(request.base_url, comment))

    async def delete_comment(self, request: http.Request, principal: auth.Principal) -> http.Response:
        comment = self._find(request, principal, commit="/issues/" not in request.template, write=True)
        del self._world.comments[comment.id]
        self._world.changed("comments")
        return http.empty(204)

    # Parts

    def _repos_of(self, owner: str) -> list[world.Repository]:
        return [
            repo
            for (forge, _), repo in self._world.repositories.items()
            if forge == "github" and repo.owner.lower() == owner.lower()
        ]

    def _pulls_of(self, repo: str) -> list[world.PullRequest]:
        return [pull for (forge, name, _), pull in self._world.pulls.items() if (forge, name) == ("github", repo)]

    def _pulls(self, request: http.Request, repo: world.Repository, found: list[world.PullRequest]) -> http.Response:
        wanted = request.param("state", "open")
        if wanted != "all":
            found = [pull for pull in found if pull.state == wanted]
        found.sort(key=lambda pull: pull.number, reverse=True)
        return rest.paged(request, found, lambda item: pull_payloads.pull(request.base_url, item, repo), key=None)

    def _issue(self, request: http.Request, repo: str) -> str:
        number = rest.number(request.params["number"])
        if ("github", repo, number) in self._world.pulls:
            return f"pull/{number}"
        if (repo, number) in self._state.issues:
            return f"issue/{number}"
        raise state.refuse(404, "Not Found")

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
        repo = rest_access.repository(self._state, request, principal, write=write)
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


def _comment_body(request: http.Request) -> str:
    body = state.read_json(request).get("body")
    if not isinstance(body, str):
        raise state.refuse(422, "Invalid request.\n\nbody wasn't supplied.")
    if not body.strip():
        raise rest.validation("Validation Failed", field="body", code="missing_field")
    if len(body) > LONGEST_BODY:
        raise rest.validation(f"Validation Failed: body is too long (maximum is {LONGEST_BODY} characters)")
    return body
