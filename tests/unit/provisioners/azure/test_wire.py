"""The whole way over sockets: sign-in with a secret, TLS with a CA of one's own, connections that break."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from provisioners import azure, base
from tests.clouds import azure as clouds_azure
from tests.clouds import wire
from tests.clouds.azure import lab, tls


class Site:
    """A simulated Azure on a socket, in real time, and what a provider needs to reach it."""

    def __init__(self, url: str, one: clouds_azure.Arm, ca: Path) -> None:
        self.arm = one
        self.secrets = {"env:SECRET": clouds_azure.SECRET}
        self.options = clouds_azure.socket_options(one, url, ca, "eastus", client_secret="env:SECRET", poll="20ms")

    def make(self, **change: Any) -> azure.Azure:
        context = base.Context("az", "acme-ci", "", time.time, asyncio.sleep, secret=self.secrets.__getitem__)
        return azure.Azure(context, {**self.options, **change})

    def request(self, key: str) -> base.CreateRequest:
        offer = base.Offer("az", self.arm.subscription, "eastus", "1", lab.T4, base.Market.SPOT, 0.1, gpus=1, cpus=4)
        tags = {base.TAG_CONTROLLER: "acme-ci", base.TAG_INSTANCE: "i-1", base.TAG_ATTEMPT: key}
        return base.CreateRequest(key, "i-1", offer, "#!/bin/sh\n", tags, time.time() + 600)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    context, trusted = tls.certificate(tmp_path)
    quick = (0.0, 0.05)
    one = clouds_azure.Arm(
        time.time, random.Random(7), allocation=quick, boot=quick, deletion=quick, visible=(0.0, 0.0)
    )
    async with wire.serve(one.handle, tls=context) as url:
        yield Site(url, one, trusted)


@contextlib.asynccontextmanager
async def opened(provisioner: azure.Azure) -> AsyncIterator[azure.Azure]:
    await provisioner.start()
    try:
        yield provisioner
    finally:
        await provisioner.close()


async def test_a_machine_is_bought_found_and_ended_over_tls_with_a_secret_by_reference(site: Site) -> None:
    async with opened(site.make()) as provisioner:
        assert [one for one in await provisioner.check() if one.level is base.Level.ERROR] == []
        view = await provisioner.create(site.request("a"))
        assert view.status is base.InstanceStatus.RUNNING
        assert [one.ref for one in (await provisioner.list_owned()).views] == [view.ref]
        assert "Linux version" in (await provisioner.console_log(view.ref) or "")
        await provisioner.delete(view.ref)
        for _ in range(100):
            if await provisioner.describe(view.ref) is None:
                break
            await asyncio.sleep(0.02)
        assert (await provisioner.end_reason(view.ref)).kind is base.EndKind.ENDED_BY_US
    assert site.arm.parts == {}


@pytest.mark.parametrize(("lost", "made"), [("before", 0), ("after", 1)])
async def test_a_connection_that_breaks_after_the_request_is_an_unclear_outcome(
    site: Site, lost: str, made: int
) -> None:
    site.arm.faults.append(clouds_azure.Fault(lost=lost))
    async with opened(site.make()) as provisioner:
        with pytest.raises(base.ProvisionError) as caught:
            await provisioner.create(site.request("a"))
        assert (caught.value.kind, caught.value.maybe_created) == (base.Kind.TRANSIENT, True)
        assert len(site.arm.created) == made
        await provisioner.create(site.request("a"))
        assert len(site.arm.created) == 1


async def test_a_host_that_does_not_listen_is_a_definite_failure(site: Site) -> None:
    # Signed in first, so that the connection that fails is the one of the PUT.
    async with opened(site.make(endpoint="https://127.0.0.1:9")) as provisioner:
        with pytest.raises(base.ProvisionError) as caught:
            await provisioner.create(site.request("a"))
        assert (caught.value.kind, caught.value.maybe_created) == (base.Kind.TRANSIENT, False)


@pytest.mark.parametrize(
    ("secret", "words"),
    [
        pytest.param("wrong", "AADSTS7000215", id="a-wrong-secret"),
        pytest.param("", "client_secret", id="no-secret"),
    ],
)
async def test_a_secret_that_does_not_work_is_told_by_check_and_by_create(site: Site, secret: str, words: str) -> None:
    def read(reference: str) -> str:
        if not secret:
            raise ValueError("the environment has no SECRET")
        return secret

    context = base.Context("az", "acme-ci", "", time.time, asyncio.sleep, secret=read)
    async with opened(azure.Azure(context, site.options)) as provisioner:
        (finding,) = await provisioner.check()
        assert (finding.level, words in finding.message) == (base.Level.ERROR, True)
        with pytest.raises(base.ProvisionError) as caught:
            await provisioner.create(site.request("a"))
        assert (caught.value.kind, caught.value.maybe_created) == (base.Kind.AUTH, False)
        assert caught.value.scope == f"az/{site.arm.subscription}/*/*/*/*"


async def test_a_rotated_secret_is_used_without_a_restart(site: Site) -> None:
    async with opened(site.make()) as provisioner:
        await provisioner.create(site.request("a"))
        site.arm.applications[clouds_azure.TENANT, clouds_azure.CLIENT] = site.secrets["env:SECRET"] = "the-next-secret"
        site.arm.revoke()
        with pytest.raises(base.ProvisionError) as caught:
            await provisioner.create(site.request("b"))
        assert caught.value.kind is base.Kind.AUTH
        view = await provisioner.create(site.request("b"))
        assert view.status is base.InstanceStatus.RUNNING


async def test_a_certificate_that_nobody_vouches_for_is_refused(site: Site) -> None:
    options = {key: value for key, value in site.options.items() if key != "ca"}
    context = base.Context("az", "acme-ci", "", time.time, asyncio.sleep, secret=site.secrets.__getitem__)
    async with opened(azure.Azure(context, options)) as provisioner:
        with pytest.raises(base.ProvisionError) as caught:
            await provisioner.create(site.request("a"))
        assert caught.value.maybe_created is False
    assert site.arm.created == []
