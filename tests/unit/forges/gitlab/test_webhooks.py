from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any

import pytest

from runnerd import errors
from runnerd.forges.gitlab import webhooks
from tests.support import clocks
from tests.unit.forges.gitlab.gl_lab import (
    START,
)

KEY = b"0123456789abcdef0123456789abcdef"
SIGNING = "whsec_" + base64.b64encode(KEY).decode()
JOB: dict[str, Any] = {
    "object_kind": "build",
    "project_id": 7,
    "build_id": 99,
    "build_status": "pending",
    "runner": None,
    "project": {"path_with_namespace": "acme/ml"},
}


@pytest.fixture
def clock() -> clocks.ManualClock:
    return clocks.ManualClock()


def deliveries(
    clock: clocks.ManualClock, *, token: str | None = "secret", signing: str | None = SIGNING
) -> webhooks.Deliveries:
    return webhooks.Deliveries(
        token=(lambda: token) if token else None, signing=(lambda: signing) if signing else None, clock=clock
    )


def signed(body: bytes, *, at: float = START, key: bytes = KEY, id: str = "msg_1", prefix: str = "") -> dict[str, str]:
    stamp = str(int(at))
    mac = base64.b64encode(hmac.new(key, f"{id}.{stamp}.".encode() + body, hashlib.sha256).digest()).decode()
    return {"webhook-id": id, "webhook-timestamp": stamp, "webhook-signature": f"{prefix}v1,{mac}"}


def refused(taker: webhooks.Deliveries, headers: dict[str, str], body: bytes) -> int:
    with pytest.raises(errors.Refused) as caught:
        taker.take(headers, body)
    return caught.value.status


BODY = json.dumps(JOB).encode()


def test_a_job_is_read_from_a_delivery_with_the_token(clock: clocks.ManualClock) -> None:
    hint = deliveries(clock).take({"x-gitlab-token": "secret"}, BODY)
    assert hint == webhooks.JobHint(7, "acme/ml", 99, "pending", 0, None)


@pytest.mark.parametrize("given", ["wrong", "", "secre", "secret ", "sécret"])
def test_another_token_is_refused(clock: clocks.ManualClock, given: str) -> None:
    assert refused(deliveries(clock), {"x-gitlab-token": given}, BODY) == 401


def test_no_token_is_refused(clock: clocks.ManualClock) -> None:
    assert refused(deliveries(clock), {}, BODY) == 401


def test_without_any_configured_secret_nothing_is_taken(clock: clocks.ManualClock) -> None:
    assert refused(deliveries(clock, token=None, signing=None), {"x-gitlab-token": ""}, BODY) == 403


def test_a_signature_is_verified_over_the_raw_body(clock: clocks.ManualClock) -> None:
    assert deliveries(clock).take(signed(BODY), BODY) is not None
    assert refused(deliveries(clock), signed(BODY), BODY + b" ") == 401


def test_one_good_value_of_several_suffices(clock: clocks.ManualClock) -> None:
    headers = signed(BODY, prefix="v1,bm90IGl0 v2,whatever ")
    assert deliveries(clock).take(headers, BODY) is not None


@pytest.mark.parametrize("drift", [-301, 301, 86400])
def test_an_old_or_early_signature_is_refused(clock: clocks.ManualClock, drift: float) -> None:
    assert refused(deliveries(clock), signed(BODY, at=START + drift), BODY) == 401


@pytest.mark.parametrize("stamp", ["", "now", "1e9", "²", "-5"])
def test_a_timestamp_that_is_no_number_is_refused(clock: clocks.ManualClock, stamp: str) -> None:
    assert refused(deliveries(clock), {**signed(BODY), "webhook-timestamp": stamp}, BODY) == 401


def test_a_present_signature_must_hold_even_with_the_right_token(clock: clocks.ManualClock) -> None:
    headers = {**signed(BODY, key=b"other"), "x-gitlab-token": "secret"}
    assert refused(deliveries(clock), headers, BODY) == 401
    assert refused(deliveries(clock), {"webhook-signature": "", "x-gitlab-token": "secret"}, BODY) == 401


def test_a_signature_without_a_configured_key_is_refused(clock: clocks.ManualClock) -> None:
    headers = {**signed(BODY), "x-gitlab-token": "secret"}
    assert refused(deliveries(clock, signing=None), headers, BODY) == 401


def test_with_only_a_signing_token_an_unsigned_delivery_is_refused(clock: clocks.ManualClock) -> None:
    assert refused(deliveries(clock, token=None), {"x-gitlab-token": "secret"}, BODY) == 401


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b"[" * 100_000, 400),
        (b'{"project_id": ' + b"9" * 5000 + b"}", 400),
        (b"\xff\xfe", 400),
        (b" " * (webhooks.MAX_BODY + 1), 413),
    ],
    ids=["empty", "cut", "list", "deep", "long-number", "not-text", "huge"],
)
def test_what_is_malformed_is_refused_cleanly(clock: clocks.ManualClock, body: bytes, status: int) -> None:
    assert refused(deliveries(clock), {"x-gitlab-token": "secret"}, body) == status


@pytest.mark.parametrize(
    "change",
    [
        {"object_kind": "push"},
        {"object_kind": None},
        {"project_id": "7"},
        {"project_id": True},
        {"build_id": -1},
        {"build_id": None},
    ],
)
def test_what_is_no_job_is_ignored(clock: clocks.ManualClock, change: dict[str, Any]) -> None:
    body = json.dumps({**JOB, **change}).encode()
    assert deliveries(clock).take({"x-gitlab-token": "secret"}, body) is None


@pytest.mark.parametrize("change", [{"runner": "x"}, {"project": []}, {"build_status": 5}, {"tags": "gpu"}])
def test_odd_fields_beside_the_ids_do_no_harm(clock: clocks.ManualClock, change: dict[str, Any]) -> None:
    body = json.dumps({**JOB, **change}).encode()
    hint = deliveries(clock).take({"x-gitlab-token": "secret"}, body)
    assert hint is not None and hint.job == 99


def test_tags_are_read_should_gitlab_send_them(clock: clocks.ManualClock) -> None:
    body = json.dumps({**JOB, "tag_list": ["gpu-t4", 5]}).encode()
    hint = deliveries(clock).take({"x-gitlab-token": "secret"}, body)
    assert hint is not None and hint.tags == ("gpu-t4",)


def test_a_repeated_delivery_is_dropped(clock: clocks.ManualClock) -> None:
    taker = deliveries(clock)
    headers = {"x-gitlab-token": "secret", "idempotency-key": "k-1"}
    assert taker.take(headers, BODY) is not None
    assert taker.take(headers, BODY) is None
    assert taker.take({**headers, "idempotency-key": "k-2"}, BODY) is not None


def test_a_stranger_cannot_use_up_a_deliverys_key(clock: clocks.ManualClock) -> None:
    taker = deliveries(clock)
    assert refused(taker, {"x-gitlab-token": "wrong", "idempotency-key": "k-1"}, BODY) == 401
    assert taker.take({"x-gitlab-token": "secret", "idempotency-key": "k-1"}, BODY) is not None


def test_the_memory_of_deliveries_is_bounded(clock: clocks.ManualClock) -> None:
    taker = deliveries(clock)
    for index in range(webhooks.DELIVERIES_KEPT + 10):
        taker.take({"x-gitlab-token": "secret", "idempotency-key": f"k-{index}"}, BODY)
    assert len(taker._seen) == webhooks.DELIVERIES_KEPT
