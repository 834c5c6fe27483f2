"""The owner, repository or commit that a REST request names, after checking that its principal may use it."""

from __future__ import annotations

import re
from typing import Any

from runnerd.simulator import http, world
from runnerd.simulator.github import auth, state

REPOSITORY = "/repos/{owner}/{repo}"


def owner(tables: state.State, request: http.Request) -> str:
    """Return the organisation of the path.  Refuses one that does not exist."""
    name = tables.canonical_scope(request.params["org"])
    if name is None:
        raise state.refuse(404, "Not Found")
    return name


def repository(
    tables: state.State, request: http.Request, principal: auth.Principal, *, write: bool = False
) -> world.Repository:
    """Return the repository of the path.  Refuses a principal that may not read or write it."""
    repo = tables.known_repository(request.params["owner"], request.params["repo"])
    comments = write and "comments" in request.template
    if comments and principal.kind == "pat" and "public_repo" in principal.scopes:
        write = False
    require_access(principal, repo.name, private=repo.private, write=write)
    return repo


def sha(request: http.Request) -> str:
    """Return the commit of the path.  Refuses a malformed one."""
    text = request.params["sha"]
    if not re.fullmatch(r"[0-9a-f]{40}", text):
        raise state.refuse(422, f"No commit found for SHA: {text}")
    return text


def created(body: dict[str, Any]) -> http.Response:
    """Return the answer for an object that was created."""
    return http.json_response(body, 201, headers={"Location": str(body["url"])})


def require_access(principal: auth.Principal, repo: str, *, private: bool, write: bool = False) -> None:
    """Refuse a principal that may not read (404, as GitHub hides it) or write (403) a repository."""
    if principal.kind == "app":
        raise state.refuse(401, "A JSON web token could not be decoded")
    if principal.kind == "installation":
        if str(principal.extra.get("owner", "")).lower() != repo.split("/")[0].lower():
            raise state.refuse(404, "Not Found")
    elif principal.kind == "job":
        if principal.extra.get("repo") != repo:
            raise state.refuse(404, "Not Found")
    elif "repo" not in principal.scopes and write:
        raise state.refuse(403, "Must have admin rights to Repository.")
