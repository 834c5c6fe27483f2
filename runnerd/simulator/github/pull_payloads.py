"""The JSON of GitHub's pull requests, comments, checks, statuses and webhook deliveries."""

from __future__ import annotations

from typing import Any

from runnerd.simulator import world
from runnerd.simulator.github import entities, payloads


def pull(base: str, item: world.PullRequest, repo: world.Repository) -> dict[str, Any]:
    """A pull request as lists show it."""
    api = f"{base}{payloads.API}/repos/{item.repo}"
    own = f"{api}/pulls/{item.number}"
    issue = f"{api}/issues/{item.number}"
    owner = payloads.user(base, repo.owner, kind="Organization")
    full = payloads.repository(base, repo)
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
        "node_id": payloads.node_id("PullRequest", item.id),
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
        "user": payloads.user(base, "octocat"),
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
    api = f"{base}{payloads.API}/repos/{item.repo}"
    place = "pull" if kind == "pull" else "issues"
    return {
        "id": item.id,
        "node_id": payloads.node_id("IssueComment", item.id),
        "url": f"{api}/issues/comments/{item.id}",
        "html_url": f"{base}/{item.repo}/{place}/{number}#issuecomment-{item.id}",
        "body": item.body,
        "user": payloads.user(base, item.user, kind="Bot" if item.user.endswith("[bot]") else "User"),
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
        "url": f"{base}{payloads.API}/repos/{item.repo}/comments/{item.id}",
        "id": item.id,
        "node_id": payloads.node_id("CommitComment", item.id),
        "body": item.body,
        "path": None,
        "position": None,
        "line": None,
        "commit_id": sha,
        "user": payloads.user(base, item.user),
        "created_at": world.iso(item.created_at),
        "updated_at": world.iso(item.updated_at),
        "author_association": "COLLABORATOR",
    }


def check_run(base: str, item: entities.CheckRun) -> dict[str, Any]:
    api = f"{base}{payloads.API}/repos/{item.repo}"
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
        "node_id": payloads.node_id("CheckRun", item.id),
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
        "url": f"{base}{payloads.API}/repos/{item.repo}/statuses/{item.sha}",
        "avatar_url": f"{base}/avatars/octocat.png",
        "id": item.id,
        "node_id": payloads.node_id("StatusContext", item.id),
        "state": item.state,
        "description": item.description,
        "target_url": item.target_url,
        "context": item.context,
        "created_at": world.iso(item.created_at),
        "updated_at": world.iso(item.created_at),
        "creator": payloads.user(base, "octocat"),
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
