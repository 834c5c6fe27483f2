"""The simulator on a real socket: independent client, dropped connections, killed polls, webhooks out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web
from githubkit import AppInstallationAuthStrategy, GitHub

from runnerd.simulator import app, github, server, world


@pytest.fixture
async def listening() -> AsyncIterator[server.Server]:
    sender = server.Sender()
    shared = world.World(time.time, deliver=sender)
    made = server.Server(app.App(shared), sender=sender)
    await made.start()
    yield made
    await made.close()


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(headers={"Authorization": f"token {github.auth.PAT}"}) as session:
        yield session


async def test_githubkit_as_an_app_manages_runners(listening: server.Server) -> None:
    auth = github.auth
    id = listening.app.github.auth.installation_of("acme")
    strategy = AppInstallationAuthStrategy(auth.APP_ID, listening.app.github.auth.app_key_pem, id)
    async with GitHub(strategy, base_url=f"{listening.url}/api/v3/") as hub:
        actions = hub.rest.actions
        made = await actions.async_generate_runner_jitconfig_for_org(
            "acme", name="kit", runner_group_id=1, labels=["gpu"]
        )
        runner = listening.app.github.connect_runner(made.parsed_data.encoded_jit_config)
        listed = await actions.async_list_self_hosted_runners_for_org("acme")
        [shown] = listed.parsed_data.runners
        assert (shown.name, shown.status, shown.busy) == ("kit", "online", False)
        await actions.async_delete_self_hosted_runner_from_org("acme", shown.id)
    with pytest.raises(github.RegistrationGone):
        await runner.next_job(0)


async def test_a_dropped_connection_has_no_answer_and_after_means_applied(
    listening: server.Server, client: aiohttp.ClientSession
) -> None:
    fault = {"faults": [{"path": "*/registration-token", "drop": "after", "count": 1}]}
    async with client.post(f"{listening.url}/_sim/faults", json=fault) as answer:
        assert answer.status == 201
    url = f"{listening.url}/api/v3/orgs/acme/actions/runners/registration-token"
    with pytest.raises(aiohttp.ClientError):
        await client.post(url)
    assert len(listening.app.github.auth.registration) == 1
    async with client.post(url) as answer:
        assert answer.status == 201


async def test_a_runner_that_is_killed_in_its_poll_holds_nothing_on_the_server(
    listening: server.Server, client: aiohttp.ClientSession
) -> None:
    jobs = listening.app.github
    token = {"name": "r", "runner_group_id": 1, "labels": ["solo"]}
    async with client.post(
        f"{listening.url}/api/v3/orgs/acme/actions/runners/generate-jitconfig", json=token
    ) as answer:
        made = await answer.json()
    secret = github.runners.read_jit_config(made["encoded_jit_config"])[".credentials_rsaparams"]["d"]
    headers = {"Authorization": f"Bearer {secret}"}
    base = f"{listening.url}/_sim/runner/sessions"
    async with client.post(base, json={"version": "2.336.0"}, headers=headers) as answer:
        session = (await answer.json())["session"]
    async with client.post(base, json={"version": "2.336.0"}, headers=headers) as answer:
        assert answer.status == 409
    with pytest.raises(TimeoutError):
        await client.get(f"{base}/{session}/job", headers=headers, timeout=aiohttp.ClientTimeout(total=0.2))
    await asyncio.sleep(0.05)
    assert not jobs.world._waiters
    async with client.post(base, json={"version": "2.100.0"}, headers=headers) as answer:
        assert answer.status == 400


async def test_webhooks_reach_a_listener(listening: server.Server, client: aiohttp.ClientSession) -> None:
    seen: list[str] = []

    async def receive(request: web.Request) -> web.Response:
        seen.append(request.headers["X-GitHub-Event"] + " " + (await request.json())["action"])
        return web.Response(status=204)

    receiver = web.Application()
    receiver.router.add_post("/hook", receive)
    runner = web.AppRunner(receiver)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    hook = {"forge": "github", "url": f"http://127.0.0.1:{port}/hook", "secret": "s"}
    async with client.post(f"{listening.url}/_sim/hooks", json=hook) as answer:
        assert answer.status == 201
    job = {"forge": "github", "repo": "acme/ml", "labels": ["x"]}
    async with client.post(f"{listening.url}/_sim/jobs", json=job) as answer:
        assert answer.status == 201
    async with asyncio.timeout(5):
        while not seen:
            await asyncio.sleep(0.01)
    assert seen == ["workflow_job queued"]
    [delivery] = listening.app.github.tables.deliveries.values()
    async with asyncio.timeout(5):
        while delivery.status == "pending":
            await asyncio.sleep(0.01)
    assert (delivery.status, delivery.status_code) == ("OK", 204)
    await runner.cleanup()
