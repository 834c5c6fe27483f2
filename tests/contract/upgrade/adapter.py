"""Every name of today's code that the golden upgrade test uses, under names that stay.

This is the one file to edit when code moves: keep the left-hand names, mend the right-hand side.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from provisioners import aws, azure, base, gcp, offload
from provisioners.catalogue import renewed
from provisioners.processes import instance_directory
from runnerd import assets, config, daemon, errors, model, store
from runnerd.bootstrap import agent_archive as archive
from runnerd.forges import base as forges
from runnerd.forges.github.scalesets import listener
from runnerd.forges.gitlab import heartbeat, jobtable, runners
from runnerd.offers import blocklist, request
from runnerd.runtime import durable_settings, ledger, providers, tokens
from tests.clouds import aws as ec2
from tests.clouds import azure as arm
from tests.clouds import gcp as gce
from tests.clouds import wire
from tests.simulation import lab

# -- the state ---------------------------------------------------------------------------------------------------------

load_config = config.load
Offload = offload.Offload
Ledger = ledger.Ledger
Store = store.Store
SpendingBy = store.By
Cursor = store.Cursor
Instance, Attempt, Registration, Job = model.Instance, model.Attempt, model.Registration, model.Job
Event, Console, ConsoleKind, Queue, Block = model.Event, model.Console, model.ConsoleKind, model.Queue, model.Block
InstanceState, AttemptState, RegistrationState = model.InstanceState, model.AttemptState, model.RegistrationState
JobState, Reason = model.JobState, model.Reason
job_key = model.job_key


def token_maker(settings: Any) -> Any:
    """The maker of credentials, as the daemon makes it."""
    return tokens.Tokens(hashlib.sha256(settings.token_key().reveal().encode()).digest())


def image_store(settings: Any, now: Callable[[], float]) -> Any:
    """The store of report images, as the daemon makes it."""
    return assets.Assets(
        settings.assets,
        settings.state / "assets",
        settings.token_key().reveal().encode(),
        now,
        public_url=settings.public_url,
        alive=lambda instance: True,
        offload=Offload(0),
    )


# -- launch requests and the blocklist ---------------------------------------------------------------------------------

compose, seal, unseal = request.compose, request.seal, request.unseal
blocking, block, image_pattern = blocklist.blocking, blocklist.block, base.OfferPattern.of_image
scope, pattern = base.Scope, base.OfferPattern
agent_archive = archive.build
Market, Kind, Failure, Shape, ProvisionError = base.Market, base.Kind, base.Failure, base.Shape, base.ProvisionError

# -- providers ---------------------------------------------------------------------------------------------------------

Lost, Request = wire.Lost, wire.Request


def provider_context(settings: Any, name: str, clock: Any) -> Any:
    """What the daemon hands a provisioner; its blocking calls run inline."""
    return dataclasses.replace(providers.context(settings, name, clock=clock), offload=lambda width: Offload(0))


def provisioner(chosen: Any, context: Any, handler: Callable[[Any], Any], *, token: str = "a-token") -> Any:
    """The provisioner of a configured provider; its SDK's requests go to the handler."""
    if chosen.type == "aws":
        return aws.Aws(context, chosen.options, ec2.mount(handler))
    if chosen.type == "gcp":
        return gcp.Gcp(context, chosen.options, gce.mount(handler, chosen.options))
    if chosen.type == "azure":
        cloud: Any = SimpleNamespace(handle=handler, token=lambda who: token, daemon=None)
        return azure.Azure(context, chosen.options, arm.mount(cloud, context, chosen.options))
    return daemon.provisioner(chosen, context)


@contextlib.contextmanager
def no_local_launches() -> Iterator[None]:
    """A local instance is recorded and no process is started for it."""
    with mock.patch.object(instance_directory.InstanceDirectory, "_launch", lambda self, directory: None):
        yield


# -- tags --------------------------------------------------------------------------------------------------------------


def tags() -> dict[str, str]:
    """By what instances are known again after everything else was lost."""
    return {
        "controller": base.TAG_CONTROLLER,
        "instance": base.TAG_INSTANCE,
        "pool": base.TAG_POOL,
        "attempt": base.TAG_ATTEMPT,
        "deadline": base.TAG_DEADLINE,
        "price": base.TAG_PRICE,
        "repo": request.TAG_REPO,
    }


# -- the daemon over the state -----------------------------------------------------------------------------------------


def make_daemon(settings: Any, clock: Any, make_provisioner: Callable[..., Any], make_forge: Callable[..., Any]) -> Any:
    return daemon.Daemon(
        settings,
        clock=clock,
        rng=random.Random(5),
        offload=Offload(0),
        make_provisioner=make_provisioner,
        make_forge=make_forge,
    )


async def drain_pool(made: Any, pool: str, *, on: bool) -> None:
    """As a person orders it."""
    await made.commands.drain(pool, on=on, who="ana")


async def write_reruns(store: Any, rows: Any, kept: list[tuple[Any, str, float, int, float]], dropped: Any) -> None:
    """Keep the wishes to run interrupted jobs again, and one that was dropped."""
    durable = durable_settings.DurableSettings(rows)
    for job, pool, at, count, taken_at in kept:
        await durable.write_rerun(durable_settings.Rerun(job, pool, at, count, taken_at))
    await durable.drop_rerun(dropped)


def settings_in_force(made: Any) -> dict[str, Any]:
    """What a started daemon has read from its settings rows."""
    pools = made.runtime.config.pools.values()
    return {
        # As the planner sees it, not the view for people.
        "drained": sorted(one.name for one in made.controller.snapshot().pools if one.drained),
        "reruns outstanding": sorted(one.name for one in pools if made.controller.reruns.outstanding(one.name)),
        "retired providers": {
            name: [one.settings.type, one.settings.options]
            for name, one in sorted(made.runtime.providers.items())
            if one.retired
        },
    }


def instances_of(made: Any) -> Mapping[str, Any]:
    return made.runtime.rows.instances


# -- forges ------------------------------------------------------------------------------------------------------------

Health, Demand, ForgeUnavailable = forges.Health, model.Demand, errors.ForgeUnavailable


def github_cursor(cursor: Mapping[str, Any], *, pool: str, clock: Any) -> dict[str, Any]:
    """What a listener that was given this cursor would write again, and the demand it reports at first."""
    queue = model.Queue("hub", "acme", pool)
    sink: Any = SimpleNamespace(
        cursor=lambda which: cursor, waiting_jobs=lambda which: [], alarm=lambda *words: None, clear=lambda *words: None
    )
    spec = forges.QueueSpec(queue, (pool,), runner_group=cursor["group"])
    nothing: Any = None
    made = listener.Listener(
        spec,
        cursor["name"],
        nothing,
        clock=clock,
        rng=random.Random(1),
        acquire=config.Acquire.AUTO,
        hosted=False,
        web="",
        owner="golden",
        on_timeout=lambda *words: None,
    )
    made.attach(spec, sink)
    demand = made.demand()
    return {"cursor": made.cursor(), "waiting": demand.waiting, "running": demand.running, "known": demand.known}


def gitlab_cursor(cursor: Mapping[str, Any], *, pool: str) -> dict[str, Any]:
    """What the table of followed jobs would write again after it was given this cursor."""
    queue = model.Queue("lab", "acme", pool)
    table = jobtable.JobTable()
    for job in jobtable.restore(cursor, queue):
        table.put(job)
    return {"cursor": table.cursor(queue), "running": table.running(queue)}


def gitlab_marks(queue: Any) -> dict[str, str]:
    """By what runnerd knows its own records at GitLab again."""
    nothing: Any = None
    description = heartbeat.Heartbeats(
        nothing, nothing, nothing, controller="golden", clock=nothing, rng=nothing
    ).description(queue)
    return {"heartbeat": description, "system_id": runners.system_id(description), "runner": runners.MARK}


# -- for making golden data only ---------------------------------------------------------------------------------------

Ec2, Gce, Arm = ec2.Ec2, gce.Gce, arm.Arm
World, Plan, run_world, GITHUB, GITLAB = lab.Lab, lab.Plan, lab.run, lab.GITHUB, lab.GITLAB


def write_renewed_prices(folder: Path, cloud: str, region: str, machine_type: str, *, day: str) -> None:
    """The file that a renewal of the price list leaves."""
    prices = renewed.Region(day, "golden price list", {machine_type: (1.25, 0.5)})
    renewed.write(str(folder), cloud, renewed.Renewed({region: prices}))
