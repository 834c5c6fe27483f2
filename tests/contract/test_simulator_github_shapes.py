"""What the simulated GitHub answers and sends has the published shapes, by the models of githubkit."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import jwt
import pytest
from githubkit.compat import type_validate_python
from githubkit.webhooks import parse_obj
from githubkit_schemas.latest import models

from runnerd.simulator import app, github, http, world

SHA = "8d8d36e94cbb508aba7b35971e473ad63c30ef8f"


class Client:
    """Calls the REST API of a simulator in process."""

    def __init__(self) -> None:
        self.sent: list[tuple[dict[str, str], bytes]] = []
        self.world = world.World(time.time, deliver=self._deliver)
        self.app = app.App(self.world)
        self.token = github.auth.PAT

    async def _deliver(self, url: str, headers: Mapping[str, str], body: bytes) -> world.HookAnswer:
        self.sent.append((dict(headers), body))
        return world.HookAnswer(200)

    async def call(self, method: str, path: str, body: Any = None, token: str | None = None) -> Any:
        headers = {"User-Agent": "tests", "Authorization": f"token {token or self.token}"}
        target = path if path.startswith("/_") else "/api/v3" + path
        made = http.request(method, target, headers=headers, json_body=body, base_url="https://github.sim.invalid")
        answer = await self.app.handle(made)
        assert answer.status < 300, (method, path, answer.status, answer.text)
        return answer.json()

    def app_jwt(self) -> str:
        now = int(time.time())
        claims = {"iat": now - 60, "exp": now + 540, "iss": str(github.auth.APP_ID)}
        return jwt.encode(claims, self.app.github.auth.app_key_pem, "RS256")

    async def installation_token(self) -> str:
        found = await self.call("GET", "/orgs/acme/installation", token=self.app_jwt())
        minted = await self.call("POST", f"/app/installations/{found['id']}/access_tokens", token=self.app_jwt())
        token: str = minted["token"]
        return token


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    made = Client()
    yield made
    await made.world.close()


async def lived(client: Client) -> github.entities.GithubJob:
    """A job that has run to its end on a runner."""
    body = {"name": "r1", "runner_group_id": 1, "labels": ["gpu"], "work_folder": "_work"}
    made = await client.call("POST", "/orgs/acme/actions/runners/generate-jitconfig", body)
    [id] = (await client.call("POST", "/_sim/jobs", {"forge": "github", "repo": "acme/ml", "labels": ["gpu"]}))["ids"]
    runner = client.app.github.connect_runner(made["encoded_jit_config"])
    job = await runner.next_job(1)
    assert job is not None
    runner.start(job)
    await asyncio.sleep(0)
    runner.finish(job)
    return client.app.github.job(id)


def valid(model: Any, data: Any) -> None:
    type_validate_python(model, data)


async def test_runner_answers(client: Client) -> None:
    body = {"name": "r1", "runner_group_id": 1, "labels": ["gpu"], "work_folder": "_work"}
    made = await client.call("POST", "/orgs/acme/actions/runners/generate-jitconfig", body)
    valid(models.OrgsOrgActionsRunnersGenerateJitconfigPostResponse201, made)
    listed = await client.call("GET", "/orgs/acme/actions/runners")
    valid(models.OrgsOrgActionsRunnersGetResponse200, listed)
    valid(models.Runner, await client.call("GET", f"/orgs/acme/actions/runners/{made['runner']['id']}"))
    valid(models.OrgsOrgActionsRunnerGroupsGetResponse200, await client.call("GET", "/orgs/acme/actions/runner-groups"))
    valid(models.AuthenticationToken, await client.call("POST", "/orgs/acme/actions/runners/registration-token"))
    valid(list[models.RunnerApplication], await client.call("GET", "/orgs/acme/actions/runners/downloads"))


async def test_app_answers(client: Client) -> None:
    token = client.app_jwt()
    valid(models.Integration, await client.call("GET", "/app", token=token))
    found = await client.call("GET", "/repos/acme/ml/installation", token=token)
    valid(models.Installation, found)
    valid(
        models.InstallationToken,
        await client.call("POST", f"/app/installations/{found['id']}/access_tokens", token=token),
    )


async def test_run_and_job_answers(client: Client) -> None:
    job = await lived(client)
    await client.call("POST", "/_sim/jobs", {"forge": "github", "repo": "acme/ml", "labels": ["gpu"], "event": "push"})
    runs = await client.call("GET", "/repos/acme/ml/actions/runs")
    assert len(runs["workflow_runs"]) == 2
    valid(models.ReposOwnerRepoActionsRunsGetResponse200, runs)
    for run in runs["workflow_runs"]:
        jobs = await client.call("GET", f"/repos/acme/ml/actions/runs/{run['id']}/jobs")
        valid(models.ReposOwnerRepoActionsRunsRunIdJobsGetResponse200, jobs)
    valid(models.Job, await client.call("GET", f"/repos/acme/ml/actions/jobs/{job.id}"))


async def test_report_answers(client: Client) -> None:
    pull = client.world.pull_request("github", "acme/ml")
    valid(models.PullRequest, await client.call("GET", f"/repos/acme/ml/pulls/{pull.number}"))
    pulls = await client.call("GET", f"/repos/acme/ml/commits/{pull.sha}/pulls?state=open")
    assert len(pulls) == 1
    valid(list[models.PullRequestSimple], pulls)
    comment = await client.call("POST", f"/repos/acme/ml/issues/{pull.number}/comments", {"body": "# report"})
    valid(models.IssueComment, comment)
    valid(
        models.IssueComment,
        await client.call("PATCH", f"/repos/acme/ml/issues/comments/{comment['id']}", {"body": "x"}),
    )
    valid(models.CommitComment, await client.call("POST", f"/repos/acme/ml/commits/{SHA}/comments", {"body": "x"}))
    check = {"name": "report", "head_sha": SHA, "conclusion": "success", "output": {"title": "t", "summary": "s"}}
    token = await client.installation_token()
    valid(models.CheckRun, await client.call("POST", "/repos/acme/ml/check-runs", check, token=token))
    valid(models.Status, await client.call("POST", f"/repos/acme/ml/statuses/{SHA}", {"state": "success"}))
    valid(models.PublicUser, await client.call("GET", "/users/octocat"))
    valid(models.FullRepository | models.Repository, await client.call("GET", "/repos/acme/ml"))
    valid(models.RateLimitOverview, await client.call("GET", "/rate_limit"))


async def test_workflow_job_events_and_deliveries(client: Client) -> None:
    hook = {"name": "web", "config": {"url": "http://127.0.0.1:1/hook", "secret": "s"}, "events": ["workflow_job"]}
    made = await client.call("POST", "/orgs/acme/hooks", hook)
    valid(models.OrgHook, made)
    await lived(client)
    await asyncio.sleep(0.01)
    events = [
        (headers["X-GitHub-Event"], json.loads(body))
        for headers, body in client.sent
        if headers["X-GitHub-Event"] == "workflow_job"
    ]
    assert [payload["action"] for _, payload in events] == ["queued", "in_progress", "completed"]
    for name, payload in events:
        parse_obj(name, payload)
    deliveries = await client.call("GET", f"/orgs/acme/hooks/{made['id']}/deliveries")
    valid(list[models.HookDeliveryItem], deliveries)
    one = await client.call("GET", f"/orgs/acme/hooks/{made['id']}/deliveries/{deliveries[0]['id']}")
    valid(models.HookDelivery, one)
