"""Cached answers: fresh ones serve, old ones serve while the question fails, several callers share one question."""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path
from typing import Any

import pytest

from provisioners import base
from provisioners.cloud_common import cache


class Cloud:
    """Answers with a number that counts up, or fails, on a clock by hand."""

    def __init__(self) -> None:
        self.seconds = 1_000_000.0
        self.asked = 0
        self.fails = False

    def now(self) -> float:
        return self.seconds

    async def ask(self) -> int:
        self.asked += 1
        await asyncio.sleep(0)
        if self.fails:
            raise base.ProvisionError(base.Kind.TRANSIENT, f"stumbled {self.asked}")
        return self.asked

    def cache(self, directory: str = "") -> cache.Cache:
        return cache.Cache(directory, "facts.json", now=self.now)


@pytest.fixture
def cloud() -> Cloud:
    return Cloud()


async def test_an_answer_serves_until_it_is_old(cloud: Cloud) -> None:
    known = cloud.cache()
    for seconds, answer in ((0.0, 1), (59.0, 1), (1.0, 2)):
        cloud.seconds += seconds
        assert await known.get("zones", "east", cloud.ask, fresh_s=60.0) == answer


async def test_kinds_and_names_are_apart(cloud: Cloud) -> None:
    known = cloud.cache()
    answers = [await known.get(kind, name, cloud.ask) for kind in ("zones", "types") for name in ("east", "west")]
    assert answers == [1, 2, 3, 4]


async def test_callers_at_the_same_time_share_one_question(cloud: Cloud) -> None:
    known = cloud.cache()
    assert await asyncio.gather(*(known.get("zones", "east", cloud.ask) for _ in range(5))) == [1] * 5


async def test_an_old_answer_serves_while_the_question_fails_and_it_is_not_asked_at_every_turn(cloud: Cloud) -> None:
    known = cloud.cache()
    await known.get("zones", "east", cloud.ask)
    cloud.seconds += cache.DAY_S
    cloud.fails = True
    for seconds, asked in ((0.0, 2), (cache.RETRY_S - 1, 2), (1.0, 3)):
        cloud.seconds += seconds
        assert await known.get("zones", "east", cloud.ask) == 1
        assert cloud.asked == asked
    cloud.fails = False
    cloud.seconds += cache.RETRY_S
    assert await known.get("zones", "east", cloud.ask) == 4


@pytest.mark.parametrize(("first_retry_s", "asked"), [(0.0, 2), (60.0, 1)])
async def test_without_an_old_answer_the_failure_is_raised(cloud: Cloud, first_retry_s: float, asked: int) -> None:
    known = cloud.cache()
    cloud.fails = True
    for _ in range(2):
        with pytest.raises(base.ProvisionError, match="stumbled"):
            await known.get("zones", "east", cloud.ask, first_retry_s=first_retry_s)
    assert cloud.asked == asked


async def test_what_was_put_is_fresh_for_as_long_as_the_reader_says(cloud: Cloud) -> None:
    known = cloud.cache()
    known.put("zone", {"east/subnet-1": "east-a"})
    cloud.seconds += 2 * cache.DAY_S
    assert known.fresh("zone", "east/subnet-1") is None
    assert known.fresh("zone", "east/subnet-1", fresh_s=math.inf) == "east-a"
    assert known.fresh("zone", "east/subnet-2", fresh_s=math.inf) is None


async def test_answers_outlive_a_restart(cloud: Cloud, tmp_path: Path) -> None:
    await cloud.cache(str(tmp_path)).get("zones", "east", cloud.ask)
    assert await cloud.cache(str(tmp_path)).get("zones", "east", cloud.ask) == 1


@pytest.mark.parametrize(
    "kept",
    [
        pytest.param("{", id="cut"),
        pytest.param("[]", id="list"),
        pytest.param({"format": 1, "zones": {}}, id="older"),
        pytest.param({"format": 2, "answers": {"zones:east": [7, "x"]}}, id="time"),
        pytest.param({"format": 2, "answers": {"zones:east": 7}}, id="entry"),
    ],
)
async def test_a_file_of_another_form_is_asked_for_anew(cloud: Cloud, tmp_path: Path, kept: Any) -> None:
    (tmp_path / "facts.json").write_text(kept if isinstance(kept, str) else json.dumps(kept))
    assert await cloud.cache(str(tmp_path)).get("zones", "east", cloud.ask) == 1
    assert json.loads((tmp_path / "facts.json").read_text())["format"] == 2


def test_a_file_of_an_older_version_is_read_once_and_written_anew(tmp_path: Path) -> None:
    old, own = tmp_path / "old.json", tmp_path / "facts.json"
    old.write_text('{"a": 5}')

    def older(kept: Any) -> cache.Answers:
        return {f"kind:{name}": (value, 100.0) for name, value in kept.items()}

    for _ in range(2):
        made = cache.Cache(str(tmp_path), own.name, now=lambda: 200.0, older=older, older_file=old.name)
        assert made.fresh("kind", "a") == 5
        old.write_text("{}")
