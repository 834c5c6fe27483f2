"""`runnerd check` before the first job: what is wrong in a file, an account or a key is named, with its place."""

from __future__ import annotations

import copy
import time
from typing import Any

import pytest

from tests.clouds import aws, registry
from tests.e2e import site as sites
from tests.e2e import work

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

CLOUDS = registry.NAMES
#: Each with a list of its own: the file's reader takes no YAML aliases.
Providers = dict[str, dict[str, Any]]


def _pool(**more: Any) -> dict[str, Any]:
    return {"from": list(CLOUDS), **more}


def _check(site: sites.Site, **environment: str) -> list[tuple[str, str, str]]:
    """Level, place and message of each finding; the status of the command says whether there is an error."""
    ran = site.run("check", "--config", str(site.plant.config), "--json", environment=environment)
    found = [(one["level"], one["place"], f"{one['message']} ({one['remedy']})") for one in ran.json["findings"]]
    assert ran.status == (1 if any(level == "error" for level, _, _ in found) else 0), (ran.status, ran.err)
    return found


def _assert_told(found: list[tuple[str, str, str]], *wanted: tuple[str, str]) -> None:
    """Each of these (place, words) is in a finding that is no praise."""
    for place, words in wanted:
        assert any(level != "ok" and place in where and words in message for level, where, message in found), (
            f"nobody tells of {place}: {words}\n" + "\n".join(" | ".join(one) for one in found)
        )


def test_a_good_configuration_has_no_error_in_three_clouds(site: sites.Site) -> None:
    site.configure()
    found = _check(site)
    assert [one for one in found if one[0] == "error"] == []
    for name in CLOUDS:
        assert any(place == "pools.gpu-t4" and f"provider {name} has" in message for _, place, message in found), found
    assert site.clouds.left() == []
    assert not site.plant.state.exists() or list(site.plant.state.iterdir()) == []


def test_what_is_wrong_in_the_file_is_named_with_the_nearest_right_word(site: sites.Site) -> None:
    bad: Providers = copy.deepcopy(site.providers())
    bad["aws"]["regions"]["us-est-1"] = bad["aws"]["regions"].pop("us-east-1")
    bad["aws"]["regions"]["us-west-2"]["subnets"] = ["sub-1"]
    bad["aws"] |= {"image": "amy-1", "tags": {"aws:owner": "x"}}
    bad["gcp"]["regions"]["us-centrl1"] = bad["gcp"]["regions"].pop("us-central1")
    bad["gcp"]["image"] = "nothing"
    bad["azure"]["regions"]["eastuss"] = bad["azure"]["regions"].pop("eastus")
    bad["azure"]["image"] = "nothing"
    site.configure(providers=bad)
    found = [("error", "", message) for _, _, message in _check(site)]
    for place, words in (
        ("providers.aws.regions.us-est-1", "us-east-1"),
        ("providers.aws.regions.us-west-2.subnets", "sub-1"),
        ("providers.aws.image", "amy-1"),
        ("providers.aws.tags", "aws:owner"),
        ("providers.gcp.regions.us-centrl1", 'did you mean "us-central1"'),
        ("providers.gcp.image", "nothing"),
        ("providers.azure.regions.eastuss", 'did you mean "eastus"'),
        ("providers.azure.image", "nothing"),
    ):
        assert any(message.startswith(place) and words in message for _, _, message in found), (place, found)


def test_what_the_accounts_do_not_have_is_named_before_a_job_meets_it(site: sites.Site) -> None:
    bad: Providers = copy.deepcopy(site.providers())
    bad["aws"]["regions"]["us-west-2"]["subnets"] = ["subnet-0123456789abcdef0"]
    bad["aws"]["regions"]["us-east-1"]["image"] = "ami-0123456789abcdef0"
    bad["gcp"] |= {"image": "family:debian-cloud/debian-99", "network": "nowhere"}
    bad["azure"]["image"] = "canonical:ubuntu-99:server:latest"
    bad["azure"]["regions"]["eastus"]["subnet"] = bad["azure"]["regions"]["eastus"]["subnet"].replace("/ci", "/co")
    site.configure(providers=bad)
    _assert_told(
        _check(site),
        ("providers.aws", "subnet-0123456789abcdef0"),
        ("providers.aws", "ami-0123456789abcdef0"),
        ("providers.gcp", "debian-99"),
        ("providers.gcp", "nowhere"),
        ("pools.gpu-t4", "ubuntu-99"),
        ("providers.azure", "/subnets/co"),
    )


def test_what_no_pool_can_buy_is_named_with_the_nearest_thing(site: sites.Site) -> None:
    site.configure(
        pools={
            "gpu-t4": _pool(gpu="t4"),
            "mistaken": _pool(gpu="t5"),
            "count": _pool(gpu="t4 x 3"),
            "cheap": _pool(gpu="t4", max_price=0.01),
            "typed": {"types": ["g4dn.xxlarge"], "from": ["aws"]},
        }
    )
    found = _check(site)
    _assert_told(
        found,
        ("pools.mistaken", 'did you mean "t4"'),
        ("pools.count", "no machine here has 3 x t4; they come with 1"),
        ("pools.cheap", "max_price is $0.01/h, but the cheapest offer"),
        ("pools.typed", 'did you mean "g4dn.xlarge"'),
    )
    hopeless = {place for level, place, message in found if level == "error" and "would wait forever" in message}
    assert hopeless == {"pools.mistaken", "pools.count", "pools.cheap", "pools.typed"}, found


def _break(site: sites.Site, providers: Providers) -> None:
    """An expired key, a project that is somebody else's, a secret that is wrong."""
    providers["gcp"]["project"] = "another-project"
    providers["azure"]["client_secret"] = site.plant.secret("bad.secret", "wrong")
    key = site.cloud("aws").cloud.keys[aws.KEYS[0]]
    site.clouds.do(lambda: setattr(key, "expires_at", time.time() - 60.0))


def test_credentials_that_are_no_good_are_named_and_the_good_provider_goes_on(site: sites.Site) -> None:
    providers: Providers = copy.deepcopy(site.providers())
    good = copy.deepcopy(providers["gcp"])
    _break(site, providers)
    site.configure(providers=providers)
    _assert_told(
        _check(site),
        ("providers.aws", "expired"),
        ("providers.gcp", "another-project"),
        ("providers.azure", "client secret is wrong"),
    )
    # Nobody has any: another application at Azure, nothing in the environment.
    providers["gcp"] = {key: value for key, value in good.items() if key != "credentials"}
    providers["azure"]["client_id"] = "99999999-0000-0000-0000-00000000000f"
    site.configure(providers=providers)
    nothing = {name: "" for name in site.plant.variables if "KEY" in name}
    _assert_told(
        _check(site, NO_GCE_CHECK="true", HOME="/nonexistent", **nothing),
        ("providers.aws", "credentials"),
        ("providers.gcp", "credentials"),
        ("providers.azure", "the client or the tenant is wrong"),
    )

    providers["gcp"] = good
    site.configure(
        providers=providers,
        pools={f"gpu-{name}": {"gpu": "t4", "from": [name]} for name in CLOUDS} | {"gpu-any": _pool(gpu="t4")},
    )
    site.plant.start_daemon()
    jobs = work.Work(site.plant)
    jobs.add(labels=["gpu-gcp"])
    jobs.add(labels=["gpu-any"])
    jobs.await_done(60)
    jobs.assert_each_ran_once()
    stuck = work.Work(site.plant)
    for name in ("aws", "azure"):
        stuck.add(labels=[f"gpu-{name}"], forge="github")
    time.sleep(5.0)
    assert stuck.waiting() == 2
    why = {one["pool"]: " ".join(site.explain(one["key"])["why"]) for one in site.jobs() if one["state"] == "queued"}
    assert "expired" in why["gpu-aws"], why
    assert "AADSTS700016" in why["gpu-azure"], why
    assert site.plant.running.status is None
