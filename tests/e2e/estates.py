"""One account at each cloud, as the plant needs it: who is let in, what runs there, what would cost if it stayed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import parse_qsl

from tests.clouds import aws, azure, gcp, machines, wire

#: Seconds that instances take to boot and to end: haste, not realism.
BOOT, ENDING, VISIBILITY = (0.2, 0.8), (0.3, 1.0), (0.0, 0.4)

#: Resource tags.
NAME = "runnerd-instance"


@dataclass(frozen=True, slots=True)
class Instance:
    """An instance, whichever cloud it is in."""

    #: Unique in all clouds, and what the cloud itself calls it.
    ref: str
    id: str
    #: Its tags, the ``runnerd-`` ones among them.
    tags: Mapping[str, str]
    user_data: bytes
    #: Model and number.
    gpus: tuple[str, int]
    market: str
    #: Its guest runs now.
    on: bool
    created_at: float
    #: It costs until then; None while it does.
    gone_at: float | None
    #: Sets its console.
    tell: Callable[[str], None]
    #: Its guest switches itself off.
    power_off: Callable[[], None]

    @property
    def name(self) -> str:
        return self.tags.get(NAME, "")


class Estate(Protocol):
    """An account."""

    name: str
    url: str
    ca: str
    #: Served by TLS.
    encrypted: bool

    def creates(self, request: wire.Request) -> tuple[str, str] | None:
        """Name of the instance and region, when a request creates one."""
        ...

    def handle(self, request: wire.Request) -> wire.Answer: ...

    def tick(self) -> None:
        """Let happen what is due."""
        ...

    def instances(self) -> Iterator[Instance]:
        """Every instance that the cloud still tells of."""
        ...

    def left(self) -> list[str]:
        """What costs, in words: instances and what belongs to them."""
        ...

    def keys(self) -> list[str]:
        """The idempotency keys of every instance that was ever made."""
        ...

    def fails(self, request: wire.Request, answer: wire.Answer) -> Iterator[tuple[str, str]]:
        """The instances of which an answer tells that they certainly will not be: a launch's mark, and the name."""
        ...

    def preempt(self, id: str) -> None:
        """Take a spot instance back."""
        ...

    def retag(self, id: str, key: str, value: str) -> None:
        """Let an instance carry another tag, as somebody with rights could."""
        ...

    def story(self, lines: int) -> str:
        """The last calls, for people."""
        ...

    def close(self) -> None: ...


class Aws:
    """An account of Amazon EC2."""

    name = "aws"
    encrypted = False
    #: In the environment of whoever may use it.
    environment: Mapping[str, str] = {
        "AWS_ACCESS_KEY_ID": aws.KEYS[0],
        "AWS_SECRET_ACCESS_KEY": aws.KEYS[1],
        # Nothing of this host is a credential.
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    }

    def __init__(self, now: Callable[[], float], rng: random.Random, *, throttled: bool = True) -> None:
        self.url = self.ca = ""
        self.cloud = aws.Ec2(now, rng, boot=BOOT, ending=ENDING, visibility=VISIBILITY, throttled=throttled)

    def options(self, regions: Mapping[str, str], **more: Any) -> dict[str, Any]:
        """A provider's options; ``regions`` maps a region to the letters of its zones."""
        subnets = {
            region: {"subnets": [self.cloud.subnet(f"{region}{letter}") for letter in letters]}
            for region, letters in regions.items()
        }
        return {"type": "aws", "endpoint": self.url, "regions": subnets, **more}

    def creates(self, request: wire.Request) -> tuple[str, str] | None:
        if b"Action=RunInstances" not in request.body or b"DryRun=true" in request.body:
            return None
        form = dict(parse_qsl(request.body.decode(), keep_blank_values=True))
        keys = [key.removesuffix(".Key") for key, value in form.items() if key.endswith(".Key") and value == NAME]
        region = request.header("Authorization").partition("Credential=")[2].split("/")[2:3]
        return form[f"{keys[0]}.Value"], "".join(region)

    def handle(self, request: wire.Request) -> wire.Answer:
        return self.cloud.handle(request)

    def tick(self) -> None:
        self.cloud.tick()

    def instances(self) -> Iterator[Instance]:
        for one in self.cloud.instances.values():
            yield Instance(
                ref=f"aws-{one.id}",
                id=one.id,
                tags=one.tags,
                user_data=one.user_data,
                gpus=machines.gpus_of(one.type),
                market=one.market,
                on=one.state == "running",
                created_at=one.created_at,
                gone_at=one.gone_at,
                tell=lambda text, one=one: setattr(one, "console", text),  # type: ignore[misc]
                power_off=lambda one=one: self.cloud.power_off(one.id),  # type: ignore[misc]
            )

    def left(self) -> list[str]:
        account = self.cloud.account
        found = [f"{one.state} instance {one.id} {one.tags.get(NAME)}" for one in self.cloud.alive]
        found += [
            f"{one.state} spot request {one.id}" for one in account.spot_requests.values() if one.state == "active"
        ]
        for region, backend in account._backends.items():
            found += [f"volume {one.id} in {region}, {one.status}" for one in backend.volumes.values()]
            found += [f"interface {one.id} in {region}, {one.status}" for one in backend.enis.values()]
        return found

    def keys(self) -> list[str]:
        return [one.token for one in self.cloud.created]

    def fails(self, request: wire.Request, answer: wire.Answer) -> Iterator[tuple[str, str]]:
        asked = self.creates(request) if answer.status >= 400 else None
        if asked:
            yield f"call {len(self.cloud.calls)}", asked[0]

    def preempt(self, id: str) -> None:
        self.cloud.preempt(id)

    def retag(self, id: str, key: str, value: str) -> None:
        instance = self.cloud.find(id)
        instance.tags[key] = value
        # What it tells is composed once.
        instance._told = {}

    def story(self, lines: int) -> str:
        calls = [
            f"{one.operation} {one.region} {one.outcome}"
            for one in self.cloud.calls
            if not one.operation.startswith("Describe")
        ]
        there = [
            f"{one.id} {one.zone} {one.type} {one.market} {one.state} {one.reason} {one.tags.get(NAME)}"
            for one in self.cloud.instances.values()
        ]
        return "\n".join([*calls[-lines:], *there[-lines:]])

    def close(self) -> None:
        self.cloud.close()


class Gcp:
    """A project of Google Cloud."""

    name = "gcp"
    encrypted = False

    def __init__(self, now: Callable[[], float], rng: random.Random, *, throttled: bool = True) -> None:
        self.url = self.ca = ""
        rates = None if throttled else dict.fromkeys(("write", "read", "list", "operations"), 10**9)
        self.cloud = gcp.Gce(now=now, rng=rng, rates=rates)
        self.cloud.iam.strict = True
        self.cloud.boot = sum(BOOT) / 2

    def key_file(self) -> str:
        """The text of a new key file of the project's service account."""
        email = f"runnerd@{self.cloud.project}.iam.gserviceaccount.com"
        return json.dumps(self.cloud.iam.key(email, token_uri=f"{self.url}/token", project=self.cloud.project))

    def options(self, regions: Mapping[str, str], *, credentials: str, **more: Any) -> dict[str, Any]:
        """A provider's options; ``regions`` maps a region to the letters of its zones."""
        return {
            "type": "gcp",
            "project": self.cloud.project,
            "credentials": credentials,
            "regions": {region: {"zones": list(letters)} for region, letters in regions.items()},
            **dict.fromkeys(("endpoint", "resource_manager", "iam"), self.url),
            **more,
        }

    def creates(self, request: wire.Request) -> tuple[str, str] | None:
        if request.method != "POST" or not request.path.endswith("/instances"):
            return None
        body = json.loads(request.body)
        items = {one["key"]: one["value"] for one in body.get("metadata", {}).get("items", [])}
        return json.loads(items["runnerd-tags"])[NAME], request.path.split("/zones/")[1].split("/")[0][:-2]

    def handle(self, request: wire.Request) -> wire.Answer:
        return self.cloud.handle(request)

    def tick(self) -> None:
        self.cloud.tick()

    def instances(self) -> Iterator[Instance]:
        for one in self.cloud.created:
            yield Instance(
                ref=f"gcp-{one.id}",
                id=one.ref,
                tags=one.tags,
                user_data=one.user_data.encode(),
                gpus=machines.gpus_of(one.type, one.accelerator, one.accelerators),
                market=one.market,
                on=one.exists and one.runs,
                created_at=one.created_at,
                gone_at=one.gone_at,
                tell=lambda text, one=one: setattr(one, "console", text),  # type: ignore[misc]
                power_off=lambda one=one: self.cloud.power_off(one.ref),  # type: ignore[misc]
            )

    def left(self) -> list[str]:
        self.cloud.tick()
        found = [f"{one.status} instance {one.zone}/{one.name}" for one in self.cloud.instances.values()]
        found += [f"disk {one.zone}/{one.name}" for one in self.cloud.disks.values()]
        return [*found, *(f"address {one.region}/{one.name}" for one in self.cloud.addresses.values())]

    def keys(self) -> list[str]:
        return [one.key for one in self.cloud.created]

    def fails(self, request: wire.Request, answer: wire.Answer) -> Iterator[tuple[str, str]]:
        asked = self.creates(request) if answer.status >= 400 else None
        if asked:
            yield f"call {len(self.cloud.log)}", asked[0]
        if answer.status != 200 or "/operations" not in request.path:
            return
        told = json.loads(answer.body)
        names = {one.id: one.tags.get(NAME, "") for one in self.cloud.created}
        for one in told.get("items", [told]):
            if one.get("status") == "DONE" and one.get("operationType") == "insert" and "error" in one:
                yield one["name"], names[one["targetId"]]

    def preempt(self, id: str) -> None:
        self.cloud.preempt(id)

    def retag(self, id: str, key: str, value: str) -> None:
        for item in self.cloud.instances[id].body["metadata"]["items"]:
            if item["key"] == "runnerd-tags":
                item["value"] = json.dumps({**json.loads(item["value"]), key: value})

    def story(self, lines: int) -> str:
        calls = [f"{what} {status} {about}" for what, status, about in self.cloud.log if "ggregated" not in what]
        there = [f"{one.ref} {one.type} {one.market} {one.status}" for one in self.cloud.created]
        return "\n".join([*calls[-lines:], *there[-lines:]])

    def close(self) -> None:
        """Nothing is open."""


class Azure:
    """A subscription of Azure."""

    name = "azure"
    encrypted = True

    def __init__(self, now: Callable[[], float], rng: random.Random, *, throttled: bool = True) -> None:
        self.url = self.ca = ""
        self.cloud = azure.Arm(now, rng, allocation=(0.1, 0.3), boot=BOOT, deletion=ENDING, visible=VISIBILITY)

    def options(self, regions: Mapping[str, str], *, secret: str, **more: Any) -> dict[str, Any]:
        """A provider's options; ``regions`` maps a region to the digits of its zones."""
        given = azure.mount_options(self.cloud, *regions)
        for region, digits in regions.items():
            given["regions"][region]["zones"] = list(digits)
        return {
            "type": "azure",
            **given,
            "tenant": azure.TENANT,
            "client_id": azure.CLIENT,
            "client_secret": secret,
            "endpoint": self.url,
            "authority": self.url.removeprefix("https://"),
            "ca": self.ca,
            **more,
        }

    def creates(self, request: wire.Request) -> tuple[str, str] | None:
        if request.method != "PUT" or "/virtualMachines/" not in request.path:
            return None
        body = json.loads(request.body)
        return body["tags"][NAME], body["location"]

    def handle(self, request: wire.Request) -> wire.Answer:
        return self.cloud.handle(request)

    def tick(self) -> None:
        self.cloud.tick()

    def instances(self) -> Iterator[Instance]:
        for one in self.cloud.created:
            yield Instance(
                ref=f"azure-{one.vm_id}",
                id=one.name,
                tags=one.tags,
                user_data=one.user_data,
                gpus=machines.gpus_of(one.type),
                market=one.market,
                on=one.state == "running",
                created_at=one.created_at,
                gone_at=one.gone_at if one.state == "gone" else None,
                tell=lambda text, one=one: setattr(one, "console", text),  # type: ignore[misc]
                power_off=lambda one=one: self.cloud.power_off(one.name),  # type: ignore[misc]
            )

    def left(self) -> list[str]:
        found = [f"{one.state} machine {one.region}/{one.name}" for one in self.cloud.instances]
        return [*found, *(f"{one.kind} {one.region}/{one.name}" for one in self.cloud.parts.values())]

    def keys(self) -> list[str]:
        return [one.key for one in self.cloud.created]

    def fails(self, request: wire.Request, answer: wire.Answer) -> Iterator[tuple[str, str]]:
        asked = self.creates(request) if answer.status >= 400 else None
        if asked:
            yield f"call {len(self.cloud.calls)}", asked[0]
        if "/operations/" in request.path and answer.status == 200 and json.loads(answer.body)["status"] == "Failed":
            name = request.path.rpartition("/")[2]
            one, made = self.cloud.operations[name]
            if made:
                yield name, one.tags.get(NAME, "")

    def preempt(self, id: str) -> None:
        self.cloud.preempt(id)

    def retag(self, id: str, key: str, value: str) -> None:
        instance = self.cloud.find(id)
        instance.tags[key] = instance.body["tags"][key] = value

    def story(self, lines: int) -> str:
        calls = [f"{what} {status}" for what, status in self.cloud.calls if what not in ("list", "network", "disks")]
        there = [
            f"{one.name} {one.region}/{one.zone} {one.type} {one.market} {one.state} {one.fails_with}"
            for one in self.cloud.created
        ]
        return "\n".join([*calls[-lines:], *there[-lines:]])

    def close(self) -> None:
        """Nothing is open."""


KINDS: Mapping[str, Callable[..., Estate]] = {"aws": Aws, "gcp": Gcp, "azure": Azure}
