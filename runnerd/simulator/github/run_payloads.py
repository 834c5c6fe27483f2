"""The JSON of GitHub's runners, workflow runs and jobs, in REST answers and webhooks."""

from __future__ import annotations

from typing import Any

from runnerd.simulator import world
from runnerd.simulator.github import entities, payloads


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
            {"id": payloads.stable_id(label) % 10_000, "name": label, "type": "custom"}
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
    api = f"{base}{payloads.API}/repos/{item.repo}"
    shown = item.started_at is not None
    return {
        "id": item.id,
        "run_id": item.run_id,
        "workflow_name": run.name,
        "head_branch": run.branch,
        "run_url": f"{api}/actions/runs/{item.run_id}",
        "run_attempt": item.run_attempt,
        "node_id": payloads.node_id("CheckRun", item.id),
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
    api = f"{base}{payloads.API}/repos/{item.repo}"
    own = f"{api}/actions/runs/{item.id}"
    actor = payloads.user(base, "octocat")
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
        "node_id": payloads.node_id("WorkflowRun", item.id),
        "check_suite_id": item.id + 7,
        "check_suite_node_id": payloads.node_id("CheckSuite", item.id + 7),
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
        "repository": payloads.minimal_repository(base, repo),
        "head_repository": payloads.minimal_repository(base, repo),
    }
