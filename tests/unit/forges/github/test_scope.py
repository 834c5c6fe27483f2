"""URLs, names of scale sets, delays: the pure parts."""

from __future__ import annotations

import random

import pytest

from runnerd.forges.github import backoff as delays
from runnerd.forges.github import scope
from runnerd.forges.github.scalesets import sets
from tests.unit.forges.github import gh_lab


@pytest.mark.parametrize(
    ("url", "kind", "name", "path", "api", "hosted"),
    [
        pytest.param(
            "https://github.com/acme/", "organization", "acme", "orgs/acme", "https://api.github.com", True, id="org"
        ),
        pytest.param(
            "https://www.github.com/acme/ml.git",
            "repository",
            "acme/ml",
            "repos/acme/ml",
            "https://api.github.com",
            True,
            id="repository",
        ),
        pytest.param(
            "https://github.com/Enterprises/big",
            "enterprise",
            "enterprises/big",
            "enterprises/big",
            "https://api.github.com",
            True,
            id="enterprise-is-no-repository",
        ),
        pytest.param(
            "https://acme.ghe.com/acme",
            "organization",
            "acme",
            "orgs/acme",
            "https://api.acme.ghe.com",
            True,
            id="ghe.com",
        ),
        pytest.param(
            "https://ghe.acme.example/acme",
            "organization",
            "acme",
            "orgs/acme",
            "https://ghe.acme.example/api/v3",
            False,
            id="enterprise-server",
        ),
        pytest.param(
            "https://ghe.acme.example:8443/acme",
            "organization",
            "acme",
            "orgs/acme",
            "https://ghe.acme.example:8443/api/v3",
            False,
            id="enterprise-server-with-port",
        ),
        pytest.param(
            "http://127.0.0.1:8090/acme",
            "organization",
            "acme",
            "orgs/acme",
            "http://127.0.0.1:8090/api/v3",
            False,
            id="loopback-with-port",
        ),
    ],
)
def test_a_url_names_owner_host_and_api(url: str, kind: str, name: str, path: str, api: str, hosted: bool) -> None:
    parsed = scope.parse(url)
    assert (parsed.kind.value, parsed.name, parsed.path, parsed.api, parsed.hosted) == (kind, name, path, api, hosted)


@pytest.mark.parametrize(
    "url", ["https://github.com/", "https://github.com/a/b/c", "https://github.com/enterprises", "acme"]
)
def test_a_url_without_an_owner_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="acme"):
        scope.parse(url)


@pytest.mark.parametrize(
    ("pools", "expected"),
    [
        pytest.param({"gpu-t4": ["gpu-t4"]}, {"gpu-t4": "gpu-t4"}, id="the-pool-itself"),
        pytest.param({"t4": ["self-hosted", "linux", "gpu-t4"]}, {"t4": "gpu-t4"}, id="first-telling-label"),
        pytest.param(
            {"small": ["cuda", "t4"], "large": ["cuda", "a100"]},
            {"small": "t4", "large": "a100"},
            id="labels-that-are-shared-name-nothing",
        ),
        pytest.param({"odd": ["self-hosted", "linux"]}, {"odd": "odd"}, id="nothing-left-but-the-pool"),
    ],
)
def test_a_set_is_named_by_a_label_of_its_pool_alone(pools: dict[str, list[str]], expected: dict[str, str]) -> None:
    specs = [gh_lab.spec(pool, labels=labels) for pool, labels in pools.items()]
    assert sets.names(specs) == expected


def test_a_name_once_chosen_stays_while_it_would_do() -> None:
    specs = [gh_lab.spec("t4", labels=["cuda", "gpu-t4"])]
    assert sets.names(specs) == {"t4": "cuda"}
    assert sets.names(specs, {"t4": "gpu-t4"}) == {"t4": "gpu-t4"}
    assert sets.names(specs, {"t4": "gone"}) == {"t4": "cuda"}
    other = gh_lab.spec("big", labels=["gpu-t4", "a100"])
    assert sets.names([*specs, other], {"t4": "gpu-t4"})["t4"] == "cuda"


def test_the_name_of_a_set_is_always_one_of_its_labels() -> None:
    spec = gh_lab.spec("odd", labels=["self-hosted", "linux"])
    assert sets.labels(spec, "odd") == ("odd", "self-hosted", "linux")


def test_delays_grow_spread_and_end_at_a_minute() -> None:
    backoff = delays.Backoff(delays.LOOP, random.Random(1))
    waits = [backoff.next() for _ in range(20)]
    assert waits[0] < 1 and max(waits) <= delays.LONGEST and waits[-1] >= 48
    backoff.reset()
    assert backoff.next() < 1
