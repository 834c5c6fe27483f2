"""The JSON of entities, as GitLab shows them; nothing here decides anything."""

from __future__ import annotations

from typing import Any

from runnerd.simulator import world
from runnerd.simulator.gitlab import builds, entities

iso = world.iso_milliseconds


def user(name: str, base_url: str) -> dict[str, Any]:
    number = 1 + sum(name.encode()) % 9000
    return {
        "id": number,
        "username": name,
        "name": name,
        "state": "active",
        "locked": False,
        "avatar_url": None,
        "web_url": f"{base_url}/{name}",
    }


def commit(sha: str, created_at: float, title: str = "Try another experiment") -> dict[str, Any]:
    when = iso(created_at)
    return {
        "id": sha,
        "short_id": sha[:8],
        "created_at": when,
        "parent_ids": [],
        "title": title,
        "message": title + "\n",
        "author_name": "Data Scientist",
        "author_email": "scientist@acme.example",
        "authored_date": when,
        "committer_name": "Data Scientist",
        "committer_email": "scientist@acme.example",
        "committed_date": when,
    }


def pipeline(found: entities.Pipeline, project_id: int, status: str, base_url: str) -> dict[str, Any]:
    return {
        "id": found.id,
        "iid": found.iid,
        "project_id": project_id,
        "sha": found.sha,
        "ref": found.ref,
        "status": status,
        "source": found.source,
        "created_at": iso(found.created_at),
        "updated_at": iso(found.updated_at),
        "web_url": f"{base_url}/{found.repo}/-/pipelines/{found.id}",
    }


def pipeline_status(jobs: builds.Builds, found: entities.Pipeline) -> str:
    """The status of the whole from its latest jobs."""
    states = {job.state for id in found.jobs if (job := jobs.get(id)) is not None and not job.retried}
    for state in ("running", "canceling"):
        if state in states:
            return "running" if state == "running" else "canceling"
    if states & {"pending", "created", "manual", "scheduled", "preparing", "waiting_for_resource"}:
        return "running" if states & entities.FINAL else "pending"
    for state in ("failed", "canceled", "success"):
        if state in states:
            return state
    return "skipped" if states else "created"


def queued_duration(jobs: builds.Builds, build: entities.Build) -> float:
    """Seconds in the queue; ticks while the job is pending."""
    end = build.started_at or build.finished_at or jobs.world.now()
    return max(0.0, round(end - build.queued_at, 6))


def duration(jobs: builds.Builds, build: entities.Build) -> float | None:
    if build.started_at is None:
        return None
    return round((build.finished_at or jobs.world.now()) - build.started_at, 6)


def job(jobs: builds.Builds, build: entities.Build, base_url: str, *, project: bool = False) -> dict[str, Any]:
    """A job as `GET /projects/:id/jobs` lists it: `tag_list` are the tags it asks for, `tag` is about Git tags."""
    line = jobs.pipelines[build.run_id]
    record = jobs.runners.get(build.runner_id or 0)
    machine = record.managers.get(build.system_id or "") if record is not None else None
    shown: dict[str, Any] = {
        "id": build.id,
        "status": build.state,
        "stage": "test",
        "name": build.name,
        "ref": build.ref,
        "tag": False,
        "coverage": None,
        "allow_failure": False,
        "created_at": iso(build.queued_at),
        "started_at": iso(build.started_at),
        "finished_at": iso(build.finished_at),
        "erased_at": None,
        "duration": duration(jobs, build),
        "queued_duration": queued_duration(jobs, build),
        "user": user("scientist", base_url),
        "commit": commit(build.sha, line.created_at),
        "pipeline": pipeline(line, build.project_id, pipeline_status_cached(jobs, line, build), base_url),
        "web_url": f"{base_url}/{build.repo}/-/jobs/{build.id}",
        "project": {"ci_job_token_scope_enabled": False},
        "artifacts": [],
        "runner": runner(jobs, record) if record is not None else None,
        "runner_manager": manager(jobs, machine) if machine is not None else None,
        "artifacts_expire_at": None,
        "archived": False,
        "source": line.source,
        "tag_list": list(build.labels),
    }
    if build.state == "failed":
        shown["failure_reason"] = build.failure_reason
    if project:
        shown["project"] = {
            "id": build.project_id,
            "name": build.repo.rsplit("/", 1)[-1],
            "path_with_namespace": build.repo,
        }
    return shown


def pipeline_status_cached(jobs: builds.Builds, line: entities.Pipeline, build: entities.Build) -> str:
    """The pipeline's status; of a big one the job's own, since walking thousands of jobs per row would be quadratic."""
    return pipeline_status(jobs, line) if len(line.jobs) <= 50 else build.state


def runner(jobs: builds.Builds, record: entities.RunnerRecord) -> dict[str, Any]:
    status = jobs.liveness(record.contacted_at, record.created_at)
    return {
        "id": record.id,
        "description": record.description or None,
        "ip_address": None,
        "active": not record.paused,
        "paused": record.paused,
        "is_shared": record.kind == "instance_type",
        "runner_type": record.kind,
        "name": "gitlab-runner" if record.managers else None,
        "online": None if status == "never_contacted" else status == "online",
        "created_at": iso(record.created_at),
        "status": status,
        "job_execution_status": "active" if record.busy else "idle",
    }


def runner_details(jobs: builds.Builds, record: entities.RunnerRecord, base_url: str) -> dict[str, Any]:
    """One runner; its token is not in it."""
    newest = max(record.managers.values(), key=lambda one: one.contacted_at, default=None)
    info = newest.info if newest is not None else {}
    projects = [found for found in jobs.world.repositories.values() if found.forge == "gitlab"]
    return {
        **runner(jobs, record),
        "tag_list": list(record.labels),
        "run_untagged": record.run_untagged,
        "locked": record.locked,
        "maximum_timeout": record.maximum_timeout,
        "access_level": record.access_level,
        "version": info.get("version"),
        "revision": info.get("revision"),
        "platform": info.get("platform"),
        "architecture": info.get("architecture"),
        "contacted_at": iso(record.contacted_at),
        "maintenance_note": record.maintenance_note,
        "projects": [
            {"id": found.id, "name": found.short, "path_with_namespace": found.name}
            for found in projects
            if record.kind == "project_type" and found.name == record.scope
        ],
        "groups": [{"name": record.scope.rsplit("/", 1)[-1], "web_url": f"{base_url}/groups/{record.scope}"}]
        if record.kind == "group_type"
        else [],
    }


def manager(jobs: builds.Builds, found: entities.Manager) -> dict[str, Any]:
    info = found.info
    return {
        "id": found.id,
        "system_id": found.system_id,
        "version": info.get("version"),
        "revision": info.get("revision"),
        "platform": info.get("platform"),
        "architecture": info.get("architecture"),
        "created_at": iso(found.created_at),
        "contacted_at": iso(found.contacted_at),
        "ip_address": "127.0.0.1",
        "status": jobs.liveness(found.contacted_at, found.created_at),
        "job_execution_status": "idle",
    }


def merge_request(found: world.PullRequest, project_id: int, base_url: str) -> dict[str, Any]:
    return {
        "id": found.id,
        "iid": found.number,
        "project_id": project_id,
        "title": found.title,
        "description": found.extra.get("description", ""),
        "state": {"open": "opened"}.get(found.state, found.state),
        "created_at": iso(found.created_at),
        "updated_at": iso(found.extra.get("updated_at", found.created_at)),
        "source_branch": found.head_ref,
        "target_branch": found.base_ref,
        "author": user("scientist", base_url),
        "sha": found.sha,
        "draft": False,
        "labels": [],
        "web_url": f"{base_url}/{found.repo}/-/merge_requests/{found.number}",
    }


def note(found: world.Comment, base_url: str, *, kind: str, noteable_id: int, number: int) -> dict[str, Any]:
    return {
        "id": found.id,
        "type": None,
        "body": found.body,
        "author": user(found.user, base_url),
        "created_at": iso(found.created_at),
        "updated_at": iso(found.updated_at),
        "system": False,
        "noteable_id": noteable_id,
        "noteable_type": kind,
        "noteable_iid": number,
        "resolvable": False,
        "confidential": False,
        "internal": False,
    }
