"""REST: credentials, rate limits, conditional requests, and what an error says."""

from __future__ import annotations

import asyncio
import datetime
import random
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from runnerd import config, errors
from runnerd.forges.github import auth, scope
from runnerd.forges.github.rate_limits import Allowance
from runnerd.forges.github.rest.rest import Rest
from runnerd.forges.github.wire import Wire
from runnerd.kit import http
from tests.support import virtual
from tests.unit.forges.github import gh_lab
from tests.unit.forges.github.gh_lab import Reply, on_virtual_time


class Lab:
    def __init__(self, directory: Path, *, app: config.GitHubApp | None = None) -> None:
        self.clock = virtual.Clock(asyncio.get_running_loop())
        self.script = gh_lab.Script(self.clock)
        self.seen: list[tuple[str, int]] = []
        self.wire = Wire(
            "acme",
            clock=self.clock,
            transport=self.script,
            on_request=lambda endpoint, status: self.seen.append((endpoint, status)),
        )
        self.scope = scope.parse("https://github.com/acme")
        self.credential: auth.Credential
        if app is not None:
            self.credential = auth.App(self.wire, self.scope, app)
        else:
            self.credential = auth.PersonalToken(gh_lab.secret(directory, "token", gh_lab.TOKEN))
        self.rest = Rest(self.wire, self.scope, self.credential, rng=random.Random(1))

    @property
    def now(self) -> float:
        return asyncio.get_running_loop().time()

    async def get(self, **fields: Any) -> dict[str, Any]:
        return await self.rest.get("/repos/{repo}/actions/runs", "list the runs", path={"repo": "acme/ml"}, **fields)

    async def post(self, **fields: Any) -> http.Response:
        return await self.rest.call("POST", "/{scope}/thing", "make a thing", accept=(201,), **fields)


def limited(remaining: int, reset: float, **fields: Any) -> dict[str, str]:
    return {
        "x-ratelimit-limit": "5000",
        "x-ratelimit-remaining": str(remaining),
        "x-ratelimit-reset": str(int(reset)),
        "x-ratelimit-resource": "core",
        **fields,
    }


@on_virtual_time
async def test_requests_are_counted_by_template_not_by_name(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.script.on("GET", "/repos/acme/ml/", Reply(200, {}))
    lab.script.on("POST", "/orgs/acme/thing", Reply(201, {}))
    await lab.get()
    await lab.post()
    assert lab.seen == [("/repos/{repo}/actions/runs", 200), ("/orgs/{org}/thing", 201)]


@on_virtual_time
async def test_a_request_that_reads_is_tried_again_and_one_that_writes_is_not(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.script.on("GET", "/", Reply(lost=True), Reply(502, b"<html>"), Reply(200, {"a": 1}))
    assert await lab.get() == {"a": 1}
    lab.script.on("POST", "/", Reply(502))
    with pytest.raises(errors.ForgeUnavailable) as caught:
        await lab.post()
    assert caught.value.maybe_created and lab.script.count("POST", "/") == 1


@on_virtual_time
async def test_a_request_that_never_left_cannot_have_been_applied(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.script.on("POST", "/", Reply(unsent=True))
    with pytest.raises(errors.ForgeUnavailable) as caught:
        await lab.post()
    assert not caught.value.maybe_created
    assert lab.seen[-1][1] == 0


@on_virtual_time
async def test_what_did_not_change_is_answered_from_memory(tmp_path: Path) -> None:
    lab = Lab(tmp_path)

    def answer(request: http.Request) -> Reply:
        if request.headers.get("If-None-Match") == '"one"':
            return Reply(304)
        return Reply(200, {"a": 1}, {"etag": '"one"'})

    lab.script.on("GET", "/", answer)
    assert await lab.get(conditional=True) == await lab.get(conditional=True) == {"a": 1}
    assert [status for _, status in lab.seen] == [200, 304]


@on_virtual_time
async def test_retry_after_is_waited_for_to_the_second_by_every_request(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.script.on("POST", "/", Reply(403, {"message": "slow down"}, {"retry-after": "90"}), Reply(201, {}))
    lab.script.on("GET", "/", Reply(200, {}))
    with pytest.raises(errors.ForgeThrottled) as caught:
        await lab.post()
    assert caught.value.retry_after == 90
    with pytest.raises(errors.ForgeThrottled):
        await lab.get()
    assert lab.script.count("GET", "/") == 0
    await lab.get(patience=100)
    assert lab.now == pytest.approx(90)


@pytest.mark.parametrize("skew", [-7200.0, 0.0, 7200.0])
@on_virtual_time
async def test_the_reset_is_read_by_the_servers_clock(tmp_path: Path, skew: float) -> None:
    lab = Lab(tmp_path)
    lab.script.skew = skew
    reset = lab.clock.wall() + skew + 600
    lab.script.on("GET", "/", Reply(403, {"message": "rate limit"}, limited(0, reset)), Reply(200, {}))
    with pytest.raises(errors.ForgeThrottled) as caught:
        await lab.get()
    assert caught.value.retry_after == pytest.approx(600, abs=2)
    await lab.get(patience=700)
    assert lab.now == pytest.approx(600, abs=2)


@on_virtual_time
async def test_secondary_refusals_without_a_time_wait_a_minute_and_then_longer(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.script.on("GET", "/", Reply(403, {"message": "You have exceeded a secondary rate limit"}))
    waits = []
    for _ in range(6):
        with pytest.raises(errors.ForgeThrottled) as caught:
            await lab.get()
        waits.append(caught.value.retry_after)
        await asyncio.sleep(caught.value.retry_after)
    assert waits == [60, 120, 240, 480, 960, 960]


@on_virtual_time
async def test_a_permission_is_not_waited_for(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    headers = limited(4000, lab.clock.wall() + 60, **{"x-github-request-id": "AB:CD"})
    lab.script.on("GET", "/", Reply(403, {"message": "Resource not accessible by integration"}, headers))
    with pytest.raises(errors.ForgeForbidden) as caught:
        await lab.get(remedy="grant Actions: read")
    text = str(caught.value)
    for part in ("acme", "list the runs", "403 Forbidden", "not accessible", "AB:CD", "grant Actions: read"):
        assert part in text
    assert lab.script.count("GET", "/") == 1
    lab.script.on("GET", "/", Reply(200, {}))
    await lab.get()
    assert lab.now == 0


@on_virtual_time
async def test_polling_leaves_a_reserve_for_registrations(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.script.on("GET", "/", Reply(200, {}, limited(100, lab.clock.wall() + 600)))
    lab.script.on("POST", "/", Reply(201, {}))
    await lab.get(spare=True)
    with pytest.raises(errors.ForgeThrottled):
        await lab.get(spare=True)
    await lab.post()
    await asyncio.sleep(601)
    await lab.get(spare=True)


@on_virtual_time
async def test_points_per_minute_and_endpoint_are_not_exceeded(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    sent: list[float] = []

    def answer(_: http.Request) -> Reply:
        sent.append(lab.now)
        return Reply(201, {})

    lab.script.on("POST", "/", answer)
    for _ in range(400):
        await lab.post(patience=61)
    for start in sent:
        assert sum(1 for at in sent if start <= at < start + 60) * 5 <= 900
    assert lab.now < 130


@on_virtual_time
async def test_a_share_of_the_quota_is_an_hourly_ceiling(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    allowance = Allowance(lab.rest.limits, lab.wire, 0.01)
    for _ in range(50):
        assert allowance.left > 0
        allowance.spend()
    assert allowance.left == 0
    await asyncio.sleep(3601)
    assert allowance.left == 50


@on_virtual_time
async def test_a_listing_is_complete_only_when_it_holds_what_it_counts(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.script.on("GET", "page=2", Reply(200, {"total_count": 150, "x": [{"id": n} for n in range(50)]}))
    lab.script.on("GET", "per_page=100", Reply(200, {"total_count": 150, "x": [{"id": n} for n in range(100)]}))
    lab.script.routes.reverse()
    found, complete = await lab.rest.pages("/{scope}/x", "x", "list x")
    assert (len(found), complete) == (150, True)
    lab.script.on("GET", "per_page=100", Reply(200, {"total_count": 150, "x": [{"id": 1}]}))
    assert (await lab.rest.pages("/{scope}/x", "x", "list x"))[1] is False


@on_virtual_time
async def test_a_token_file_that_was_rotated_works_at_once(tmp_path: Path) -> None:
    lab = Lab(tmp_path)

    def answer(request: http.Request) -> Reply:
        if request.headers["Authorization"].endswith("new-token"):
            return Reply(200, {"a": 1})
        (tmp_path / "token").write_text("new-token")
        return Reply(401, {"message": "Bad credentials"})

    lab.script.on("GET", "/", answer)
    assert await lab.get() == {"a": 1}


@on_virtual_time
async def test_a_revoked_token_is_an_error_that_names_the_remedy_and_not_the_token(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.script.on("GET", "/", Reply(401, {"message": f"Bad credentials {gh_lab.TOKEN}"}))
    with pytest.raises(errors.ForgeAuthFailed, match="has not expired") as caught:
        await lab.get()
    assert gh_lab.TOKEN not in str(caught.value)
    assert lab.script.count("GET", "/") == 1


@pytest.mark.parametrize(
    ("body", "type"), [(b"<html>sorry", "text/html"), (b"", ""), (b"[1]", "application/json"), (b"{", "x")]
)
@on_virtual_time
async def test_an_answer_that_is_no_json_object_says_so(tmp_path: Path, body: bytes, type: str) -> None:
    lab = Lab(tmp_path)
    lab.script.on("GET", "/", Reply(200, body, {"content-type": type}))
    with pytest.raises(errors.ForgeUnavailable, match="acme: could not list the runs"):
        await lab.get()


@on_virtual_time
async def test_a_byte_order_mark_is_no_obstacle(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.script.on("GET", "/", Reply(200, b'\xef\xbb\xbf{"a": 1}'))
    assert await lab.get() == {"a": 1}


# -- Apps ------------------------------------------------------------------------------------------------------------

_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PEM = _KEY.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
).decode()


def app_of(directory: Path, pem: str = PEM, **fields: Any) -> config.GitHubApp:
    return config.GitHubApp.model_validate({"id": 12, "key": gh_lab.secret(directory, "app.pem", pem), **fields})


def minting(lab: Lab, *, life: float = 3600.0) -> list[dict[str, Any]]:
    """Mint installation tokens as GitHub does, judging the JWT by the server's clock; the claims that came."""
    claims: list[dict[str, Any]] = []

    def mint(request: http.Request) -> Reply:
        token = request.headers["Authorization"].removeprefix("Bearer ")
        read = jwt.decode(
            token, _KEY.public_key(), algorithms=["RS256"], options={"verify_exp": False, "verify_iat": False}
        )
        claims.append(read)
        now = lab.clock.wall() + lab.script.skew
        if read["iat"] > now or not now < read["exp"] <= now + 600:
            return Reply(401, {"message": "'Issued at' claim ('iat') must be an Integer in the past"})
        ends = datetime.datetime.fromtimestamp(now + life, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return Reply(201, {"token": f"ghs_{len(claims)}" + "x" * 500, "expires_at": ends})

    lab.script.on("POST", "/app/installations/77/access_tokens", mint)
    lab.script.on("GET", "/orgs/acme/installation", Reply(200, {"id": 77}))
    lab.script.on("GET", "/actions/runs", Reply(200, {}))
    return claims


@on_virtual_time
async def test_an_app_finds_its_installation_mints_once_and_renews_in_time(tmp_path: Path) -> None:
    lab = Lab(tmp_path, app=app_of(tmp_path))
    claims = minting(lab)
    await asyncio.gather(*(lab.get() for _ in range(20)))
    assert len(claims) == 1 and claims[0]["iss"] == "12"
    assert lab.script.count("GET", "/installation") == 1
    await asyncio.sleep(3200)
    await lab.get()
    await asyncio.sleep(200)
    await lab.get()
    assert len(claims) == 2


@pytest.mark.parametrize("skew", [-3600.0, -90.0, 90.0, 3600.0])
@on_virtual_time
async def test_a_wrong_host_clock_does_not_lock_the_app_out(tmp_path: Path, skew: float) -> None:
    lab = Lab(tmp_path, app=app_of(tmp_path, installation=77))
    lab.script.skew = skew
    claims = minting(lab)
    await lab.get()
    assert len(claims) <= 2
    await asyncio.sleep(3000)
    before = len(claims)
    await lab.get()
    assert len(claims) == before, "the token's life is judged by the server's clock, too"


@on_virtual_time
async def test_a_token_that_github_dropped_is_minted_anew_once(tmp_path: Path) -> None:
    lab = Lab(tmp_path, app=app_of(tmp_path, installation=77))
    claims = minting(lab)
    lab.script.on("GET", "/actions/runs", Reply(401, {"message": "Bad credentials"}), Reply(200, {}))
    await lab.get()
    assert len(claims) == 2
    lab.script.on("GET", "/actions/runs", Reply(401, {"message": "Bad credentials"}))
    with pytest.raises(errors.ForgeAuthFailed, match="private key"):
        await lab.get()
    assert len(claims) == 3


@on_virtual_time
async def test_a_broken_key_is_named_by_its_reference_and_never_shown(tmp_path: Path) -> None:
    broken = PEM.replace("PRIVATE KEY-----\n", "PRIVATE KEY-----\nXX", 1)
    lab = Lab(tmp_path, app=app_of(tmp_path, broken, installation=77))
    with pytest.raises(errors.ForgeAuthFailed, match=r"app\.pem") as caught:
        await lab.get()
    assert "BEGIN" not in str(caught.value) and caught.value.__cause__ is None


@on_virtual_time
async def test_an_app_that_is_not_installed_says_where_to_install_it(tmp_path: Path) -> None:
    lab = Lab(tmp_path, app=app_of(tmp_path))
    lab.script.on("GET", "/orgs/acme/installation", Reply(404, {"message": "Not Found"}))
    with pytest.raises(errors.ForgeNotFound, match="install the App for acme"):
        await lab.get()
