"""The JSON of GitHub's REST answers and webhooks. Shapes are checked against the published schemas in tests."""

from __future__ import annotations

import base64
import zlib
from typing import Any

from runnerd.simulator import world
from runnerd.simulator.github import state

API = "/api/v3"

_REPOSITORY_LINKS = {
    "archive_url": "/{archive_format}{/ref}",
    "assignees_url": "/assignees{/user}",
    "blobs_url": "/git/blobs{/sha}",
    "branches_url": "/branches{/branch}",
    "collaborators_url": "/collaborators{/collaborator}",
    "comments_url": "/comments{/number}",
    "commits_url": "/commits{/sha}",
    "compare_url": "/compare/{base}...{head}",
    "contents_url": "/contents/{+path}",
    "contributors_url": "/contributors",
    "deployments_url": "/deployments",
    "downloads_url": "/downloads",
    "events_url": "/events",
    "forks_url": "/forks",
    "git_commits_url": "/git/commits{/sha}",
    "git_refs_url": "/git/refs{/sha}",
    "git_tags_url": "/git/tags{/sha}",
    "hooks_url": "/hooks",
    "issue_comment_url": "/issues/comments{/number}",
    "issue_events_url": "/issues/events{/number}",
    "issues_url": "/issues{/number}",
    "keys_url": "/keys{/key_id}",
    "labels_url": "/labels{/name}",
    "languages_url": "/languages",
    "merges_url": "/merges",
    "milestones_url": "/milestones{/number}",
    "notifications_url": "/notifications{?since,all,participating}",
    "pulls_url": "/pulls{/number}",
    "releases_url": "/releases{/id}",
    "stargazers_url": "/stargazers",
    "statuses_url": "/statuses/{sha}",
    "subscribers_url": "/subscribers",
    "subscription_url": "/subscription",
    "tags_url": "/tags",
    "teams_url": "/teams",
    "trees_url": "/git/trees{/sha}",
}


def stable_id(text: str) -> int:
    """A number for a login that is the same in every run."""
    return zlib.crc32(text.encode()) % 90_000_000 + 1_000_000


def node_id(kind: str, id: int) -> str:
    return base64.b64encode(f"{kind}:{id}".encode()).decode()


def user(base: str, login: str, *, kind: str = "User") -> dict[str, Any]:
    api = f"{base}{API}/users/{login}"
    return {
        "login": login,
        "id": stable_id(login),
        "node_id": node_id(kind, stable_id(login)),
        "avatar_url": f"{base}/avatars/{login}.png",
        "gravatar_id": "",
        "url": api,
        "html_url": f"{base}/{login}",
        "followers_url": f"{api}/followers",
        "following_url": f"{api}/following{{/other_user}}",
        "gists_url": f"{api}/gists{{/gist_id}}",
        "starred_url": f"{api}/starred{{/owner}}{{/repo}}",
        "subscriptions_url": f"{api}/subscriptions",
        "organizations_url": f"{api}/orgs",
        "repos_url": f"{api}/repos",
        "events_url": f"{api}/events{{/privacy}}",
        "received_events_url": f"{api}/received_events",
        "type": kind,
        "site_admin": False,
    }


def full_user(base: str, login: str, *, kind: str = "User") -> dict[str, Any]:
    return {
        **user(base, login, kind=kind),
        "name": login.capitalize(),
        "company": None,
        "blog": "",
        "location": None,
        "email": None,
        "hireable": None,
        "bio": None,
        "public_repos": 1,
        "public_gists": 0,
        "followers": 0,
        "following": 0,
        "created_at": "2020-01-01T00:00:00Z",
        "updated_at": "2020-01-01T00:00:00Z",
    }


def organization(base: str, login: str) -> dict[str, Any]:
    api = f"{base}{API}/orgs/{login}"
    return {
        "login": login,
        "id": stable_id(login),
        "node_id": node_id("Organization", stable_id(login)),
        "url": api,
        "repos_url": f"{api}/repos",
        "events_url": f"{api}/events",
        "hooks_url": f"{api}/hooks",
        "issues_url": f"{api}/issues",
        "members_url": f"{api}/members{{/member}}",
        "public_members_url": f"{api}/public_members{{/member}}",
        "avatar_url": f"{base}/avatars/{login}.png",
        "description": "",
    }


def minimal_repository(base: str, repo: world.Repository) -> dict[str, Any]:
    api = f"{base}{API}/repos/{repo.name}"
    return {
        "id": repo.id,
        "node_id": node_id("Repository", repo.id),
        "name": repo.short,
        "full_name": repo.name,
        "private": repo.private,
        "owner": user(base, repo.owner, kind="Organization"),
        "html_url": f"{base}/{repo.name}",
        "description": None,
        "fork": False,
        "url": api,
        **{name: api + tail for name, tail in _REPOSITORY_LINKS.items()},
    }


def repository(base: str, repo: world.Repository) -> dict[str, Any]:
    git = base.partition("://")[2]
    return {
        **minimal_repository(base, repo),
        "created_at": "2020-01-01T00:00:00Z",
        "updated_at": "2020-01-01T00:00:00Z",
        "pushed_at": "2020-01-01T00:00:00Z",
        "git_url": f"git://{git}/{repo.name}.git",
        "ssh_url": f"git@{git}:{repo.name}.git",
        "clone_url": f"{base}/{repo.name}.git",
        "svn_url": f"{base}/{repo.name}",
        "mirror_url": None,
        "homepage": None,
        "size": 1,
        "stargazers_count": 0,
        "watchers_count": 0,
        "language": "Python",
        "has_issues": True,
        "has_projects": True,
        "has_downloads": True,
        "has_wiki": True,
        "has_pages": False,
        "has_discussions": False,
        "forks_count": 0,
        "archived": False,
        "disabled": False,
        "open_issues_count": 0,
        "license": None,
        "allow_forking": True,
        "is_template": False,
        "web_commit_signoff_required": False,
        "topics": [],
        "visibility": "private" if repo.private else "public",
        "forks": 0,
        "open_issues": 0,
        "watchers": 0,
        "default_branch": repo.default_branch,
        "custom_properties": {},
    }


def installation(base: str, tables: state.State, *, id: int, app_id: int, owner: str) -> dict[str, Any]:
    return {
        "id": id,
        "account": user(base, owner, kind="Organization"),
        "repository_selection": "all",
        "access_tokens_url": f"{base}{API}/app/installations/{id}/access_tokens",
        "repositories_url": f"{base}{API}/installation/repositories",
        "html_url": f"{base}/organizations/{owner}/settings/installations/{id}",
        "app_id": app_id,
        "client_id": f"Iv1.{app_id:016x}",
        "target_id": stable_id(owner),
        "target_type": "Organization",
        "permissions": {"actions": "write", "checks": "write", "metadata": "read"},
        "events": ["workflow_job"],
        "created_at": world.iso(tables.world.now()),
        "updated_at": world.iso(tables.world.now()),
        "single_file_name": None,
        "has_multiple_single_files": False,
        "single_file_paths": [],
        "app_slug": "runnerd",
        "suspended_at": None,
        "suspended_by": None,
    }
