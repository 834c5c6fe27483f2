"""The JSON of GitHub's REST answers and webhooks. Shapes are checked against the published schemas in tests."""

from __future__ import annotations

import base64
import zlib
from typing import Any

from runnerd.simulator import world
from runnerd.simulator.github import entities, state

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


def runner(item: entities.GithubRunner) -> dict[str, Any]:
    """A runner as REST lists it; runners of scale sets show no labels (ARC issues 4425, 4579)."""
    answer: dict[str, Any] = {
        "id": item.id,
        "runner_group_id": item.group_id,
        "name": item.name,
        "os": "Linux" if item.version else "unknown",
        "status": item.status,
        "busy": item.busy,
        "ephemeral": item.ephemeral,
        "labels": [
            {"id": stable_id(label) % 10_000, "name": label, "type": "custom"}
            for label in (item.labels if item.set_id is None else [])
        ],
    }
    if item.version:
        answer["version"] = item.version
    return answer


def steps(job: entities.GithubJob) -> list[dict[str, Any]]:
    if job.started_at is None:
        return []
    done = job.status == "completed"
    common = {"started_at": world.iso(job.started_at)}
    return [
        {
            "name": "Set up job",
            "status": "completed",
            "conclusion": "success",
            "number": 1,
            **common,
            "completed_at": world.iso(job.started_at),
        },
        {
            "name": "Run script",
            "status": "completed" if done else "in_progress",
            "conclusion": job.conclusion if done else None,
            "number": 2,
            **common,
            "completed_at": world.iso(job.finished_at),
        },
    ]


def job(base: str, item: entities.GithubJob, run: entities.Run, group: str | None) -> dict[str, Any]:
    """A job of REST; the runner is unknown until it has begun (the measured behaviour)."""
    api = f"{base}{API}/repos/{item.repo}"
    shown = item.started_at is not None
    return {
        "id": item.id,
        "run_id": item.run_id,
        "workflow_name": run.name,
        "head_branch": run.branch,
        "run_url": f"{api}/actions/runs/{item.run_id}",
        "run_attempt": item.run_attempt,
        "node_id": node_id("CheckRun", item.id),
        "head_sha": item.sha,
        "url": f"{api}/actions/jobs/{item.id}",
        "html_url": f"{base}/{item.repo}/actions/runs/{item.run_id}/job/{item.id}",
        "status": item.status,
        "conclusion": item.conclusion,
        "created_at": world.iso(item.queued_at),
        "started_at": world.iso(item.started_at or item.queued_at),
        "completed_at": world.iso(item.finished_at),
        "name": item.name,
        "steps": steps(item),
        "check_run_url": f"{api}/check-runs/{item.id}",
        "labels": list(item.labels),
        "runner_id": item.runner_id if shown else None,
        "runner_name": item.runner if shown else None,
        "runner_group_id": item.extra.get("runner_group_id") if shown else None,
        "runner_group_name": group if shown else None,
    }


def run(base: str, item: entities.Run, repo: world.Repository) -> dict[str, Any]:
    api = f"{base}{API}/repos/{item.repo}"
    own = f"{api}/actions/runs/{item.id}"
    actor = user(base, "octocat")
    pulls = []
    if item.pull_number is not None:
        short = {"id": repo.id, "url": api, "name": repo.short}
        pulls.append(
            {
                "id": item.pull_number,
                "number": item.pull_number,
                "url": f"{api}/pulls/{item.pull_number}",
                "head": {"ref": item.branch, "sha": item.sha, "repo": short},
                "base": {"ref": repo.default_branch, "sha": item.sha, "repo": short},
            }
        )
    return {
        "id": item.id,
        "name": item.name,
        "node_id": node_id("WorkflowRun", item.id),
        "check_suite_id": item.id + 7,
        "check_suite_node_id": node_id("CheckSuite", item.id + 7),
        "head_branch": item.branch,
        "head_sha": item.sha,
        "path": ".github/workflows/train.yml",
        "run_number": item.number,
        "run_attempt": item.attempt,
        "referenced_workflows": [],
        "event": item.event,
        "status": item.status,
        "conclusion": item.conclusion if item.status == "completed" else None,
        "workflow_id": 161335,
        "url": own,
        "html_url": f"{base}/{item.repo}/actions/runs/{item.id}",
        "pull_requests": pulls,
        "created_at": world.iso(item.created_at),
        "updated_at": world.iso(item.updated_at),
        "run_started_at": world.iso(item.started_at or item.created_at),
        "actor": actor,
        "triggering_actor": actor,
        "jobs_url": f"{own}/jobs",
        "logs_url": f"{own}/logs",
        "check_suite_url": f"{api}/check-suites/{item.id + 7}",
        "artifacts_url": f"{own}/artifacts",
        "cancel_url": f"{own}/cancel",
        "rerun_url": f"{own}/rerun",
        "previous_attempt_url": f"{own}/attempts/{item.attempt - 1}" if item.attempt > 1 else None,
        "workflow_url": f"{api}/actions/workflows/161335",
        "display_title": f"Experiment {item.pull_number or item.number}",
        "head_commit": {
            "id": item.sha,
            "tree_id": item.sha,
            "message": "Experiment",
            "timestamp": world.iso(item.created_at),
            "author": {"name": "Octocat", "email": "octocat@users.noreply.invalid"},
            "committer": {"name": "Octocat", "email": "octocat@users.noreply.invalid"},
        },
        "repository": minimal_repository(base, repo),
        "head_repository": minimal_repository(base, repo),
    }


def pull(base: str, item: world.PullRequest, repo: world.Repository) -> dict[str, Any]:
    """A pull request as lists show it."""
    api = f"{base}{API}/repos/{item.repo}"
    own = f"{api}/pulls/{item.number}"
    issue = f"{api}/issues/{item.number}"
    owner = user(base, repo.owner, kind="Organization")
    full = repository(base, repo)
    links = {
        "comments": f"{issue}/comments",
        "commits": f"{own}/commits",
        "statuses": f"{api}/statuses/{item.sha}",
        "html": f"{base}/{item.repo}/pull/{item.number}",
        "issue": issue,
        "review_comments": f"{own}/comments",
        "review_comment": f"{api}/pulls/comments{{/number}}",
        "self": own,
    }

    def side(ref: str, sha: str) -> dict[str, Any]:
        return {"label": f"{repo.owner}:{ref}", "ref": ref, "sha": sha, "user": owner, "repo": full}

    return {
        "id": item.id,
        "node_id": node_id("PullRequest", item.id),
        "url": own,
        "html_url": links["html"],
        "diff_url": links["html"] + ".diff",
        "patch_url": links["html"] + ".patch",
        "issue_url": issue,
        "commits_url": links["commits"],
        "review_comments_url": links["review_comments"],
        "review_comment_url": links["review_comment"],
        "comments_url": links["comments"],
        "statuses_url": links["statuses"],
        "number": item.number,
        "state": item.state,
        "locked": False,
        "title": item.title,
        "user": user(base, "octocat"),
        "body": None,
        "labels": [],
        "milestone": None,
        "created_at": world.iso(item.created_at),
        "updated_at": world.iso(item.created_at),
        "closed_at": None,
        "merged_at": None,
        "merge_commit_sha": None,
        "assignee": None,
        "assignees": [],
        "requested_reviewers": [],
        "requested_teams": [],
        "head": side(item.head_ref, item.sha),
        "base": side(item.base_ref, item.extra.get("base_sha", "0" * 40)),
        "_links": {name: {"href": href} for name, href in links.items()},
        "author_association": "OWNER",
        "auto_merge": None,
        "draft": False,
    }


def full_pull(base: str, item: world.PullRequest, repo: world.Repository, comments: int) -> dict[str, Any]:
    return {
        **pull(base, item, repo),
        "merged": False,
        "mergeable": True,
        "rebaseable": True,
        "mergeable_state": "clean",
        "merged_by": None,
        "comments": comments,
        "review_comments": 0,
        "maintainer_can_modify": False,
        "commits": 1,
        "additions": 1,
        "deletions": 0,
        "changed_files": 1,
    }


def issue_comment(base: str, item: world.Comment) -> dict[str, Any]:
    kind, number = item.target.split("/", 1)
    api = f"{base}{API}/repos/{item.repo}"
    place = "pull" if kind == "pull" else "issues"
    return {
        "id": item.id,
        "node_id": node_id("IssueComment", item.id),
        "url": f"{api}/issues/comments/{item.id}",
        "html_url": f"{base}/{item.repo}/{place}/{number}#issuecomment-{item.id}",
        "body": item.body,
        "user": user(base, item.user, kind="Bot" if item.user.endswith("[bot]") else "User"),
        "created_at": world.iso(item.created_at),
        "updated_at": world.iso(item.updated_at),
        "issue_url": f"{api}/issues/{number}",
        "author_association": "COLLABORATOR",
        "performed_via_github_app": None,
    }


def commit_comment(base: str, item: world.Comment) -> dict[str, Any]:
    sha = item.target.split("/", 1)[1]
    return {
        "html_url": f"{base}/{item.repo}/commit/{sha}#commitcomment-{item.id}",
        "url": f"{base}{API}/repos/{item.repo}/comments/{item.id}",
        "id": item.id,
        "node_id": node_id("CommitComment", item.id),
        "body": item.body,
        "path": None,
        "position": None,
        "line": None,
        "commit_id": sha,
        "user": user(base, item.user),
        "created_at": world.iso(item.created_at),
        "updated_at": world.iso(item.updated_at),
        "author_association": "COLLABORATOR",
    }


def check_run(base: str, item: entities.CheckRun) -> dict[str, Any]:
    api = f"{base}{API}/repos/{item.repo}"
    output = {
        "title": item.output.get("title"),
        "summary": item.output.get("summary"),
        "text": item.output.get("text"),
        "annotations_count": len(item.output.get("annotations") or []),
        "annotations_url": f"{api}/check-runs/{item.id}/annotations",
    }
    return {
        "id": item.id,
        "head_sha": item.head_sha,
        "node_id": node_id("CheckRun", item.id),
        "external_id": item.external_id,
        "url": f"{api}/check-runs/{item.id}",
        "html_url": f"{base}/{item.repo}/runs/{item.id}",
        "details_url": item.details_url,
        "status": item.status,
        "conclusion": item.conclusion,
        "started_at": item.started_at,
        "completed_at": item.completed_at,
        "output": output,
        "name": item.name,
        "check_suite": {"id": item.id + 7},
        "app": None,
        "pull_requests": [],
    }


def status(base: str, item: entities.CommitStatus) -> dict[str, Any]:
    return {
        "url": f"{base}{API}/repos/{item.repo}/statuses/{item.sha}",
        "avatar_url": f"{base}/avatars/octocat.png",
        "id": item.id,
        "node_id": node_id("StatusContext", item.id),
        "state": item.state,
        "description": item.description,
        "target_url": item.target_url,
        "context": item.context,
        "created_at": world.iso(item.created_at),
        "updated_at": world.iso(item.created_at),
        "creator": user(base, "octocat"),
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


def delivery(item: entities.Delivery) -> dict[str, Any]:
    return {
        "id": item.id,
        "guid": item.guid,
        "delivered_at": world.iso(item.delivered_at),
        "redelivery": item.redelivery,
        "duration": round(item.duration, 2),
        "status": item.status,
        "status_code": item.status_code,
        "event": item.event,
        "action": item.action,
        "installation_id": None,
        "repository_id": item.repository_id,
        "throttled_at": None,
    }
