"""Makes golden data with the code at hand: ``python -m tests.contract.upgrade.make NAME``.

Run it at the version whose data is to be kept, NAME being its commit; the folder of that name appears beside this
file.  ``3124ff6`` was made at that commit with the names in ``3124ff6/adapter.py.txt``: to make it again, copy this
folder into a checkout of that commit, put that file in the place of ``adapter.py``, and run this there.

Everything is written by real code: the store, the ledger, the composer of launch requests, the provisioners over the
simulated clouds, a daemon, a world with both forges, and agents in processes of their own.
"""

from __future__ import annotations

import asyncio
import dataclasses
import gzip
import json
import random
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

from tests.contract.upgrade import adapter, agents, capture

NOW = capture.NOW
HERE = Path(__file__).resolve().parent
#: The boot of a host that is not this one.
ELSEWHERE = "0b8c1a52-6c0e-4a52-9f53-3d1f2b6d7a10"
_PNG = b"\x89PNG\r\n\x1a\n" + b"golden " * 8
_CONFIG = """\
controller: golden
state: @@state@@
public_url: https://runnerd.example
forges:
  hub: {type: github, url: https://github.com/acme, token: env:RUNNERD_GOLDEN_TOKEN, retry: {preempted: 2}}
  lab: {type: gitlab, url: https://gitlab.example, token: env:RUNNERD_GOLDEN_TOKEN, groups: [acme]}
providers:
  sky: {type: fake, boot: 5s, regions: {east: {}, west: {}}}
  host: {type: local, gpu: t4, slots: 50, keep: 24h}
  amazon: @@amazon@@
  google: @@google@@
  az: @@az@@
@@retired@@\
limits: {instances: 100, gpus: 200, dollars_per_day: 500, dollars_per_month: 9000}
defaults: {max_job: 12h, idle: 10m, boot: 15m, market: spot-then-on-demand}
pools:
  sky-pool: {gpu: t4, from: [sky], limits: {dollars_per_day: 50}}
  host-pool: {gpu: t4, from: [host], market: on-demand}
  amazon-pool:
    gpu: t4
    from: [amazon]
    disk: 150GiB
    options: {amazon: {disk_iops: 4000}}
  google-pool: {gpu: t4, from: [google], options: {google: {disk_type: pd-ssd, network_tags: [ci]}}}
  az-pool: {gpu: t4, from: [az], disk: 128GiB, options: {az: {disk_type: Premium_LRS}}}
"""
_RETIRED = "  former: {type: fake, seed: 7, regions: {north: {}}}\n"
POOLS = {"sky": "sky-pool", "host": "host-pool", "amazon": "amazon-pool", "google": "google-pool", "az": "az-pool"}


def main(name: str) -> None:
    target = HERE / name
    with tempfile.TemporaryDirectory() as scratch:
        write(Path(scratch) / "made", target)


def write(folder: Path, target: Path) -> None:
    """Make the data in a scratch folder, and put it packed, with what this code reads of it, into another."""
    made = asyncio.run(Maker(folder).run(_cursors()))
    archive = folder / "agent.pyz"
    archive.write_bytes(adapter.agent_archive().data)
    for case in agents.CASES:
        agents.make(archive, folder / "agents" / case, case)
    archive.unlink()
    _abroad(folder)
    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(folder, target)
    for path in [*target.rglob("*.lock"), *target.rglob("lock"), *target.rglob("*.db-*")]:
        path.unlink()
    _pack(target / "state/runnerd.db")
    with tempfile.TemporaryDirectory() as scratch:
        read = capture.unpack(target, Path(scratch) / "read")
        sections = asyncio.run(capture.everything(read))
        sections["agents"] = capture.agent(read)
        rows = asyncio.run(capture.rows(capture.load_config(read)))
    manifest = {"made_with": capture.versions(), "instances": made}
    (target / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    expected = target / capture.EXPECTED
    expected.write_text(json.dumps({"rows": rows, **sections}, sort_keys=True))
    _pack(expected)


def _pack(path: Path) -> None:
    path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes(), mtime=0))
    path.unlink()


def _abroad(folder: Path) -> None:
    """Let the files be of another host than this one, whose boots and folders mean nothing later."""
    for path in [*folder.rglob("record.json"), *folder.rglob("identity.json")]:
        value = json.loads(path.read_text())
        path.write_text(json.dumps({**value, "boot": ELSEWHERE}))
    for path in folder.rglob("runner.json"):
        value = json.loads(path.read_text().replace(str(path.parent), "/opt/runnerd-agent"))
        path.write_text(json.dumps({**value, "boot": ELSEWHERE}))


def _cursors() -> dict[str, Any]:
    """The cursors that the clients of both forges leave in mid-work."""
    found: dict[str, Any] = {}

    async def story(world: Any) -> None:
        await world.start()
        await world.sleep(10)
        for forge in ("github", "gitlab"):
            world.queue(forge, count=3, duration=600)
        await world.sleep(60)
        state = await world.daemon.store.load()
        found.update(state.cursors)

    adapter.run_world(adapter.Plan(forges=adapter.GITHUB + adapter.GITLAB, limits="{instances: 4}"), story)
    return {name.replace(":gpu", ":sky-pool"): value for name, value in sorted(found.items())}


class Maker:
    """Writes one state."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = capture.Clock(NOW - 7200)
        rng = random.Random(17)
        self.ec2 = adapter.Ec2(self.clock.now, rng)
        self.gce = adapter.Gce(now=self.clock.now, rng=rng)
        self.arm = adapter.Arm(self.clock.now, rng)
        self.states: dict[str, int] = {}
        self._serial = 0
        self._offers: dict[str, list[Any]] = {}

    async def run(self, cursors: dict[str, Any]) -> dict[str, int]:
        (self.folder / "state").mkdir(parents=True)
        former = self._configure(_RETIRED)
        # A daemon writes down its providers, and a person drains pools; then one provider leaves the file.
        made = await capture.start_daemon(former)
        await adapter.drain_pool(made, "az-pool", on=True)
        await adapter.drain_pool(made, "google-pool", on=True)
        await adapter.drain_pool(made, "google-pool", on=False)
        await made.stop()
        self.settings = former
        store = await adapter.Store.open(former.database_url, offload=adapter.Offload(0), now=self.clock.now)
        self.store, self.ledger = store, adapter.Ledger(store, self.clock.now)
        self.providers = {name: self._provider(name) for name in former.providers}
        await self._notes()
        host, kept = former.state / "providers" / "host", self.folder / "kept-host"
        try:
            for one in self.providers.values():
                await one.start()
            await self._lives()
            await self._blocks()
            for queue, value in cursors.items():
                await store.write(adapter.Cursor(queue, value))
            await self._images()
            # As it is while its instances run.
            shutil.copytree(host, kept)
        finally:
            for row in [one for one in self.ledger.instances.values() if one.provider == "host" and one.ref]:
                await self.providers["host"].delete(row.ref)
            for one in self.providers.values():
                await one.close()
            await store.close()
        shutil.rmtree(host)
        kept.rename(host)
        self._configure("")
        text = (self.folder / "runnerd.yaml").read_text()
        (self.folder / "runnerd.yaml").write_text(text.replace(str(self.folder / "state"), "@@state@@"))
        return dict(sorted(self.states.items()))

    def _configure(self, retired: str) -> Any:
        subnets = [self.ec2.subnet("us-east-1a"), self.ec2.subnet("us-east-1b")]
        amazon = {
            "type": "aws",
            "account": self.ec2.account_id,
            "regions": {"us-east-1": {"subnets": subnets}, "us-west-2": {"subnets": [self.ec2.subnet("us-west-2a")]}},
            "tags": {"cost-centre": "ml"},
        }
        google = {
            "type": "gcp",
            "project": "acme-ml",
            "regions": {"us-central1": {"zones": ["a", "b"]}, "europe-west4": {"zones": "all"}},
            "preemption_notice": "120s",
        }
        az = {
            "type": "azure",
            "subscription": self.arm.subscription,
            "resource_group": self.arm.group,
            "regions": {one: {"subnet": self.arm.subnet(one), "zones": ["1", "2"]} for one in ("eastus", "westus2")},
        }
        text = _CONFIG.replace("@@retired@@", retired)
        for name, options in (("amazon", amazon), ("google", google), ("az", az)):
            text = text.replace(f"@@{name}@@", json.dumps(options))
        (self.folder / "runnerd.yaml").write_text(text)
        return capture.load_config(self.folder)

    def _provider(self, name: str) -> Any:
        chosen = self.settings.providers[name]
        handler = {"aws": self.ec2.handle, "gcp": self.gce.handle, "azure": self.arm.handle}.get(chosen.type)
        context = adapter.provider_context(self.settings, name, self.clock)
        if chosen.type == "local":
            # Its processes live in real time.
            context = dataclasses.replace(context, sleep=asyncio.sleep)
        token = self.arm.token(self.arm.daemon)
        return adapter.provisioner(chosen, context, handler or capture.Recorder(), token=token)

    async def _notes(self) -> None:
        """A resource group that left the configuration, and renewed prices."""
        # First, so that the images that are found for it are in the notes which the former provider goes on with.
        request = await self._request("az", "golden-of-a-former-group", adapter.Market.ON_DEMAND)
        chosen = self.settings.providers["az"]
        self.arm.groups["runnerd-former"] = "eastus"
        moved = chosen.model_copy(update={"options": {**chosen.options, "resource_group": "runnerd-former"}})
        context = adapter.provider_context(self.settings, "az", self.clock)
        former = adapter.provisioner(moved, context, self.arm.handle, token=self.arm.token(self.arm.daemon))
        await former.start()
        await former.create(adapter.unseal(adapter.seal(request), "a-token"))
        await former.close()
        for name, cloud, region, machine_type in (
            ("amazon", "aws", "us-west-2", "g4dn.xlarge"),
            ("google", "gcp", "us-central1", "n1-standard-4+nvidia-tesla-t4x1"),
        ):
            folder = self.settings.state / "providers" / name
            adapter.write_renewed_prices(folder, cloud, region, machine_type, day="2026-11-25")

    # -- instances -------------------------------------------------------------------------------------------------

    async def _lives(self) -> None:
        """An instance in every state, and for each cloud in those that hold a request."""
        for name in ("sky", "former"):
            await self._life(name, "booting")
        for provider in POOLS:
            for market in (adapter.Market.ON_DEMAND, adapter.Market.SPOT):
                if provider == "host" and market is adapter.Market.SPOT:
                    continue
                await self._life(provider, "requesting", market=market)
                await self._life(provider, "unknown", market=market)
            for stage in ("booting", "busy", "job-done"):
                await self._life(provider, stage)
        for stage in (
            "planned",
            "refused",
            "failed",
            "ready",
            "registering",
            "unclear",
            "registered",
            "draining",
            "ending",
            "preempted",
            "gone-and-removing",
            "adopted",
            "held",
        ):
            await self._life("sky", stage)

    async def _request(self, provider: str, id: Any, market: Any) -> Any:
        pool_name = POOLS.get(provider, "sky-pool")
        pool = self.settings.pools[pool_name]
        if provider not in self._offers:
            options = pool.options.get(provider, {})
            self._offers[provider] = await self.providers[provider].offers(pool.shape(provider), options)
            if provider == "host":
                shape = dataclasses.replace(pool.shape(provider), markets=(adapter.Market.ON_DEMAND,))
                self._offers[provider] = await self.providers[provider].offers(shape)
        fitting = [one for one in self._offers[provider] if one.market is market]
        offer = fitting[self._serial % len(fitting)]
        with mock.patch.object(sys, "executable", "/usr/bin/python3"):
            return self._compose(provider, offer, pool, id)

    def _compose(self, provider: str, offer: Any, pool: Any, id: Any) -> Any:
        key: Any = f"a{self._serial:02d}{'k' * 23}"
        return adapter.compose(
            self.settings,
            offer,
            pool=pool,
            traits=self.providers[provider].traits,
            instance=id,
            key=key,
            repo="acme/ml",
            bundle=adapter.agent_archive().sha256,
            now=self.clock.now(),
        )

    async def _life(self, provider: str, stage: str, market: Any = adapter.Market.ON_DEMAND) -> None:
        self._serial += 1
        self.clock.at += 11
        spot = "-spot" if market is adapter.Market.SPOT else ""
        id: Any = f"golden-{stage}-{provider}{spot}"
        states, now, rows = adapter.InstanceState, self.clock.now, self.ledger
        pool = POOLS.get(provider, "sky-pool")
        await rows.plan([adapter.Instance(id, pool, states.PLANNED, now(), now(), repo="acme/ml", gpus=1)])
        try:
            await self._walk(provider, stage, market, id)
        finally:
            row = await self.store.instance(id)
            assert row is not None
            self.states[row.state.value] = self.states.get(row.state.value, 0) + 1

    async def _walk(self, provider: str, stage: str, market: Any, id: Any) -> None:
        states, now, step = adapter.InstanceState, self.clock.now, self.ledger.step
        if stage == "planned":
            return
        if stage == "failed":
            await step(id, states.FAILED, reason=adapter.Reason.NO_OFFER, detail="every offer is blocked")
            return
        request = await self._request(provider, id, market)
        offer = request.offer
        attempt = adapter.Attempt(
            key=request.key,
            instance=id,
            state=adapter.AttemptState.REQUESTING,
            provider=provider,
            offer=offer.key,
            sealed=adapter.seal(request),
            created_at=now(),
            since=now(),
            sent_at=now(),
            sends=1,
            price=offer.price,
        )
        place: dict[str, Any] = {
            "attempt": request.key,
            "provider": provider,
            "offer": offer.key,
            "region": offer.region,
            "zone": offer.zone,
            "machine_type": offer.machine_type,
            "market": offer.market.value,
            "gpus": offer.gpus,
            "cpus": offer.cpus,
            "image": offer.image,
            "price": offer.price,
            "price_source": offer.price_source,
            "deadline": request.deadline,
        }
        await step(id, states.REQUESTING, attempt_row=attempt, **place)
        if stage == "requesting":
            return
        if stage in ("unknown", "refused"):
            to = adapter.AttemptState.UNKNOWN if stage == "unknown" else adapter.AttemptState.FAILED
            moved = dataclasses.replace(
                attempt, state=to, since=now(), sends=2, failure="transient", code="Timeout", detail="no \x00 answer"
            )
            if stage == "unknown":
                await step(id, states.UNKNOWN, attempt_row=moved, detail="its answer was lost")
            else:
                gone: dict[str, Any] = dict.fromkeys(place, "") | {
                    "attempt": None,
                    "gpus": 1,
                    "cpus": 0,
                    "price": 0.0,
                    "deadline": 0.0,
                }
                await step(id, states.PLANNED, attempt_row=moved, reason=adapter.Reason.REFUSED, **gone)
            return
        token = adapter.token_maker(self.settings).boot(request.key)
        view = await self.providers[provider].create(adapter.unseal(attempt.sealed, token))
        created = dataclasses.replace(attempt, state=adapter.AttemptState.CREATED, since=now())
        await step(id, states.BOOTING, attempt_row=created, ref=view.ref, running_at=now())
        if stage == "booting":
            return
        await self._works(provider, stage, id)

    async def _works(self, provider: str, stage: str, id: Any) -> None:
        states, regs, now, step = adapter.InstanceState, adapter.RegistrationState, self.clock.now, self.ledger.step
        await step(id, states.READY, ready_at=now(), agent_nonce="nonce-of-the-agent")
        if stage == "held":
            await self.ledger.amend(id, hold_until=NOW + 3600.0)
        if stage in ("ready", "held"):
            return
        self.clock.at += 5
        forge = "lab" if self._serial % 3 == 0 and stage != "preempted" else "hub"
        queue = adapter.Queue(forge, "acme", self.ledger.instances[id].pool)
        number: Any = f"r{self._serial}"
        record = adapter.Registration(number, id, queue, id, regs.REGISTERING, now(), now())
        await step(id, states.REGISTERING, registration_row=record, queue=queue)
        if stage == "registering":
            return
        if stage == "unclear":
            await self.ledger.step_registration(record.id, regs.UNCLEAR, detail="the answer was lost")
            return
        done = dataclasses.replace(record, state=regs.REGISTERED, since=now(), forge_id=str(1000 + self._serial))
        await step(id, states.REGISTERED, registration_row=done, registered_at=now())
        if stage == "registered":
            return
        job = adapter.Job(
            adapter.job_key(forge, "acme/ml", str(self._serial), "train (3.12, a|b)"),
            queue,
            "acme/ml",
            str(self._serial),
            "train (3.12, a|b)",
            labels=("gpu", "self-hosted"),
            aliases=(f"{self._serial}-1", f"{self._serial}-2"),
            state=adapter.JobState.RUNNING,
            instance=id,
            runner_name=id,
            queued_at=now() - 300,
            started_at=now(),
            url="https://example.com/acme/ml/1",
            lapses=1,
        )
        await self.ledger.write_jobs([job])
        if stage != "draining":
            await step(id, states.BUSY, job=job.key, busy_at=now(), job_started=True)
        if stage == "adopted":
            await self.ledger.amend(id, adopted=True)
            return
        if stage == "busy":
            queued = dataclasses.replace(
                job,
                key=adapter.job_key(forge, "acme/ml", str(self._serial), "waits"),
                name="waits",
                state=adapter.JobState.QUEUED,
                instance=None,
                runner_name="",
                started_at=0.0,
            )
            await self.ledger.write_jobs([queued])
            return
        self.clock.at += 60
        if stage == "draining":
            await step(id, states.DRAINING, reason=adapter.Reason.IDLE)
            return
        await self.ledger.write_jobs(
            [dataclasses.replace(job, state=adapter.JobState.COMPLETED, conclusion="success", finished_at=now())]
        )
        await step(id, states.ENDING, reason=adapter.Reason.JOB_DONE, job_ended_at=now(), detail="its job ended")
        console = adapter.Console(id, adapter.ConsoleKind.CONSOLE, now(), "login: \N{SNOWMAN}\n")
        agent = adapter.Console(id, adapter.ConsoleKind.AGENT, now(), "", "it left no last words")
        await self.store.write(console, agent, adapter.Event(now(), "instance", id, "alarm", "late", "for the trail"))
        if stage == "ending":
            return
        await self.ledger.step_registration(record.id, regs.REMOVING)
        if stage != "gone-and-removing":
            await self.ledger.step_registration(record.id, regs.GONE)
        if provider == "host":
            await self.providers["host"].delete(self.ledger.instances[id].ref)
        reason = adapter.Reason.PREEMPTED if stage == "preempted" else adapter.Reason.JOB_DONE
        end = "preempted" if stage == "preempted" else "ended-by-us"
        await step(id, states.GONE, reason=reason, end=end, end_detail="the provider's words")
        if stage == "preempted":
            taken = adapter.job_key("hub", "acme/ml", "77", "taken")
            await adapter.write_reruns(
                self.store,
                self.ledger,
                [(job.key, "sky-pool", NOW - 600, 0, 0.0), (taken, "amazon-pool", NOW - 900, 1, NOW - 500)],
                dropped=adapter.job_key("hub", "acme/ml", "78", "dropped"),
            )

    # -- the rest --------------------------------------------------------------------------------------------------

    async def _blocks(self) -> None:
        """A block of every class, for one offer, a zone, regions, an account and an image."""
        classes = [*(one.value for one in adapter.Kind), "gate", "register", "preempted"]
        offers = [one for name in POOLS for one in self._offers[name]]
        self.clock.at = NOW - 3
        for number, reason in enumerate(classes):
            kind = adapter.Kind(reason) if reason in set(adapter.Kind) else adapter.Kind.CAPACITY
            # A pattern holds one block.
            offer, scope = next(
                (one, scope)
                for one in offers[number * 7 :] + offers
                if (scope := self._scope(one, number)) not in self.ledger.blocks
            )
            await self._block(
                offer, reason, adapter.Failure(kind, f"refused: {reason}", scope=adapter.pattern(scope), code="Code")
            )
        for name in ("amazon", "google"):
            offer = self._offers[name][0]
            suspect = "ami-0suspected" if name == "amazon" else offer.image
            failure = adapter.Failure(adapter.Kind.BOOT, "three in a row", scope=adapter.image_pattern(name, suspect))
            await self._block(offer, adapter.Kind.BOOT, failure)
        long = adapter.Failure(
            adapter.Kind.QUOTA, "for a day", scope=adapter.pattern("az/*/westus2/*/*/*"), block_for=86400.0
        )
        await self._block(self._offers["az"][0], adapter.Kind.QUOTA, long)

    def _scope(self, offer: Any, number: int) -> Any:
        root = f"{offer.provider}/{offer.account}"
        return (
            str(offer.key),
            f"{root}/{offer.region}/{offer.zone}/*/*",
            f"{root}/{offer.region}|elsewhere/*/*/spot",
            f"{root}/*/*/{offer.machine_type}|other/*",
        )[(number + number // 4) % 4]

    async def _block(self, offer: Any, reason: str, failure: Any) -> None:
        made = adapter.block(offer, reason, failure, blocks=self.ledger.blocks.values(), now=self.clock.now())
        if made is not None:
            await self.ledger.write_block(made)

    async def _images(self) -> None:
        kept = adapter.image_store(self.settings, self.clock.now)

        async def chunks() -> Any:
            yield _PNG

        await kept.receive(kept.capability("golden-busy-sky"), chunks())
        shutil.rmtree(self.settings.state / "assets" / "tmp", ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1])
