from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from provisioners import base, fake
from provisioners.base import Finding, Level
from runnerd import config
from runnerd.admin import documents
from runnerd.cli import check


async def _checked(tmp_path: Path, pools: dict[str, Any], **changes: Any) -> list[documents.Finding]:
    data = {
        "controller": "acme-ci",
        "state": str(tmp_path),
        "forges": {"hub": {"type": "github", "url": "http://127.0.0.1:1/acme", "token": "env:RUNNERD_PAT"}},
        "providers": {"sky": {"type": "fake"}},
        "limits": {"instances": 4},
        "pools": pools,
    } | changes
    return await check.check(config.from_mapping(data, environ={"RUNNERD_PAT": "ghp_x"}))


def _said(found: list[documents.Finding], place: str) -> dict[str, str]:
    return {one["message"]: one["level"] for one in found if one["place"] == place}


@pytest.mark.parametrize(
    ("pool", "words"),
    [
        pytest.param({"gpu": "t5"}, 'no GPU "t5"', id="an unknown GPU"),
        pytest.param({"gpu": "t4 x 3"}, "3 x t4", id="a count that no type has"),
        pytest.param({"gpu": "t4", "max_price": 0.01}, "max_price is $0.01/h", id="a cap below every offer"),
        pytest.param({"gpu": "t4", "arch": "arm64"}, "processor", id="another processor"),
    ],
)
async def test_a_pool_that_nobody_can_serve_is_an_error_with_its_cause(
    tmp_path: Path, pool: dict[str, Any], words: str
) -> None:
    said = _said(await _checked(tmp_path, {"gpu": pool, "good": {"gpu": "t4"}}), "pools.gpu")
    assert any(words in message for message in said)
    assert [message for message, level in said.items() if level == "error"] == [
        "none of sky has an offer that the pool may buy: its jobs would wait forever"
    ]
    assert "error" not in _said(await _checked(tmp_path, {"gpu": pool, "good": {"gpu": "t4"}}), "pools.good").values()


async def test_a_pool_that_another_provider_serves_is_a_warning(tmp_path: Path) -> None:
    providers = {
        "sky": {"type": "fake"},
        "sea": {"type": "fake", "machine_types": {"big": {"gpu": "h200", "gpu_count": 1}}},
    }
    said = _said(await _checked(tmp_path, {"gpu": {"gpu": "h200"}}, providers=providers), "pools.gpu")
    assert set(said.values()) == {"warning", "ok"}


async def test_a_boot_script_that_the_provider_does_not_take_is_told_with_a_remedy(tmp_path: Path) -> None:
    providers = {"sky": {"type": "fake", "agent_url": "https://runnerd.example/" + "x" * 9000}, "sea": {"type": "fake"}}
    found = await _checked(tmp_path, {"gpu": {"gpu": "t4"}}, providers=providers)
    (said,) = [one for one in found if one["place"] == "pools.gpu" and "boot script" in one["message"]]
    assert said["level"] == "warning" and "takes 16384 as user data" in said["message"]
    assert said["remedy"].startswith("shorten agent_url")
    alone = await _checked(tmp_path, {"gpu": {"gpu": "t4", "from": ["sky"]}}, providers=providers)
    assert "error" in _said(alone, "pools.gpu").values()


async def test_a_provider_that_cannot_tell_makes_no_pool_hopeless(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def offers(*_: object) -> list[base.Offer]:
        raise base.ProvisionError(base.Kind.AUTH, "the credential has expired")

    monkeypatch.setattr(fake.Fake, "offers", offers)
    said = _said(await _checked(tmp_path, {"gpu": {"gpu": "t4"}}), "pools.gpu")
    assert list(said) == ["provider sky could not list its offers: the credential has expired"]


async def test_a_provider_is_shown_what_each_pool_would_send(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[base.CreateRequest] = []

    async def look(self: fake.Fake, samples: tuple[base.CreateRequest, ...] = ()) -> list[Finding]:
        seen.extend(samples)
        return [Finding(Level.OK, "providers.sky", "fine")]

    monkeypatch.setattr(fake.Fake, "check", look)
    pools = {"gpu": {"gpu": "t4", "tags": {"team": "ml"}, "disk": "100GiB"}}
    await _checked(tmp_path, pools, tags={"owner": "platform"})
    (sample,) = seen
    assert sample.tags["team"] == "ml" and sample.tags["owner"] == "platform"
    assert sample.tags[base.TAG_POOL] == "gpu" and sample.disk == 100 * 2**30
    assert base.TOKEN_PLACEHOLDER not in sample.user_data


async def test_a_total_whose_last_day_has_passed_is_told(tmp_path: Path) -> None:
    limits = {"instances": 4, "dollars_total": 5000, "until": "2024-12-31"}
    said = _said(await _checked(tmp_path, {"gpu": {"gpu": "t4"}}, limits=limits), "limits.until")
    assert list(said.values()) == ["warning"]
