"""Facts for the store's tests; every field has a value of its own, so that no two columns can be mixed up."""

from __future__ import annotations

import dataclasses

from runnerd import model

QUEUE = model.Queue("acme", "acme/ml", "gpu-t4")

INSTANCE = model.Instance(
    id=model.InstanceId("rd-1"),
    pool="gpu-t4",
    state=model.InstanceState.BUSY,
    created_at=1.5,
    since=2.5,
    reason=model.Reason.IDLE,
    queue=QUEUE,
    attempt=model.AttemptKey("rd-1/1"),
    provider="aws",
    offer="aws/main/us-east-1/us-east-1a/g4dn.xlarge/spot",
    region="us-east-1",
    zone="us-east-1a",
    machine_type="g4dn.xlarge",
    market="spot",
    gpus=1,
    cpus=4,
    image="ami-0123",
    ref="i-0abc",
    price=0.526,
    price_source="catalogue 2026-07-20",
    running_at=3.5,
    ready_at=4.5,
    registered_at=5.5,
    busy_at=6.5,
    job_ended_at=7.5,
    gone_at=8.5,
    deadline=1e10 + 0.25,
    hold_until=9.5,
    repo="acme/ml",
    job=model.job_key("acme", "acme/ml", "77", "train"),
    agent_nonce="nonce",
    job_started=True,
    adopted=True,
    detail="läuft – 走る 🚀 'quoted' \"twice\" %s :name ?",
    end="preempted",
    end_detail="Server.SpotInstanceTermination",
)
#: Only what has no default.
BARE = model.Instance(model.InstanceId("rd-2"), "gpu-t4", model.InstanceState.PLANNED, 1.0, 1.0)

ATTEMPT = model.Attempt(
    key=model.AttemptKey("rd-1/1"),
    instance=INSTANCE.id,
    state=model.AttemptState.UNKNOWN,
    provider="aws",
    offer="aws/main/us-east-1/us-east-1a/g4dn.xlarge/spot",
    sealed='{"token": "{{token}}", "n": 1}',
    created_at=1.25,
    since=2.25,
    sent_at=3.25,
    sends=2,
    price=0.25,
    failure="capacity",
    code="InsufficientInstanceCapacity",
    detail="none left",
)
REGISTRATION = model.Registration(
    id=model.RegistrationId("rd-1"),
    instance=INSTANCE.id,
    queue=QUEUE,
    runner_name="rd-1",
    state=model.RegistrationState.REGISTERED,
    created_at=1.125,
    since=2.125,
    forge_id="4711",
    detail="fine",
)
JOB = model.Job(
    key=model.job_key("acme", "acme/ml", "77", "train"),
    queue=QUEUE,
    repo="acme/ml",
    run="77",
    name="train",
    labels=("gpu-t4", "self-hosted"),
    aliases=("901", "902"),
    state=model.JobState.RUNNING,
    conclusion="cancelled",
    instance=INSTANCE.id,
    runner_name="rd-1",
    queued_at=1.75,
    started_at=2.75,
    finished_at=3.75,
    url="https://github.test/acme/ml/actions/runs/77",
    lapses=3,
)
CONSOLE = model.Console(INSTANCE.id, model.ConsoleKind.CONSOLE, 2.25, "[ 1.0] booted\n", "half of it only")
EVENT = model.Event(1.0, "instance", "rd-1", "busy", "job-done", "the job began")
BLOCK = model.Block("aws/*/us-east-1/*/*/spot", "capacity", 99.5, 98.5, "said the cloud")


def instance(id: str, state: model.InstanceState, **fields: object) -> model.Instance:
    """A bare instance with some fields set."""
    return dataclasses.replace(BARE, id=model.InstanceId(id), state=state, **fields)  # type: ignore[arg-type]
