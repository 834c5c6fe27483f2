from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from runnerd import errors
from runnerd.forges.gitlab import rate_limits, rest
from runnerd.kit import http
from tests.support import virtual
from tests.unit.forges.gitlab.gl_lab import (
    START,
    TOKEN,
    URL,
    Server,
    lost,
    ok,
)


async def look(client: rest.Rest) -> object:
    return await client.get("/projects/{id}", what="read a project", path={"id": "acme/sub/ml"})


async def test_a_path_is_quoted_and_the_token_sent_in_its_header(client: rest.Rest, server: Server) -> None:
    server.answers = [ok({"id": 1})]
    await look(client)
    [request] = server.sent
    assert request.url == "https://gitlab.test/api/v4/projects/acme%2Fsub%2Fml"
    assert request.headers["PRIVATE-TOKEN"] == TOKEN


async def test_requests_are_counted_by_template(
    client: rest.Rest, server: Server, counted: list[tuple[str, int]]
) -> None:
    server.answers = [ok({}), lost()]
    await look(client)
    with pytest.raises(errors.ForgeUnavailable):
        await look(client)
    assert counted == [("GET /projects/{id}", 200), ("GET /projects/{id}", 0)]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, errors.ForgeError),
        (401, errors.ForgeAuthFailed),
        (403, errors.ForgeForbidden),
        (404, errors.ForgeNotFound),
        (408, errors.ForgeUnavailable),
        (409, errors.ForgeConflict),
        (410, errors.ForgeNotFound),
        (422, errors.ForgeError),
        (429, errors.ForgeThrottled),
        (500, errors.ForgeUnavailable),
        (502, errors.ForgeUnavailable),
        (302, errors.ForgeError),
    ],
)
async def test_each_refusal_has_its_kind_and_is_sent_once(
    client: rest.Rest, server: Server, status: int, kind: type[errors.ForgeError]
) -> None:
    server.answers = [ok({"message": "no"}, status)]
    with pytest.raises(errors.ForgeError) as caught:
        await look(client)
    assert type(caught.value) is kind and caught.value.status == status
    assert len(server.sent) == 1


async def test_a_refusal_says_who_what_and_which_request_without_secrets(client: rest.Rest, server: Server) -> None:
    words = f"insufficient_scope for {TOKEN} and glrt-t3_abcdefgh12345"
    server.answers = [ok({"error": words}, 403, x_request_id="01HX")]
    with pytest.raises(errors.ForgeForbidden) as caught:
        await look(client)
    text = str(caught.value)
    assert text.startswith("gl: read a project: GitLab answered 403: insufficient_scope")
    assert "(request 01HX)" in text and "scopes api and create_runner" in text
    assert TOKEN not in text and "abcdefgh12345" not in text


@pytest.mark.parametrize(
    ("answer", "maybe"),
    [
        (lost(), True),
        (lost(maybe_applied=False), False),
        (ok({}, 502), True),
        (ok({}, 429), False),
        (ok({}, 400), False),
        (http.Response(201, {"content-type": "text/html"}, b"<html>"), True),
    ],
    ids=["lost", "not-connected", "502", "429", "400", "html"],
)
async def test_only_an_unclear_post_may_have_created(
    client: rest.Rest, server: Server, answer: http.Response | Exception, maybe: bool
) -> None:
    server.answers = [answer]
    with pytest.raises(errors.ForgeError) as caught:
        client.object(await client.call("POST", "/user/runners", what="create", body={}), "create")
    assert caught.value.maybe_created is maybe


async def test_an_unclear_get_created_nothing(client: rest.Rest, server: Server) -> None:
    server.answers = [lost()]
    with pytest.raises(errors.ForgeUnavailable) as caught:
        await look(client)
    assert not caught.value.maybe_created


async def test_pages_follow_the_link_as_it_is(client: rest.Rest, server: Server) -> None:
    following = "https://gitlab.test/api/v4/projects/1/jobs?cursor=eyJ%3D&weird=%5B%5D&scope=a,b;c"
    server.answers = [
        ok([{"id": 1}], link=f'<https://x/>; rel="first", <{following}>; rel="next", <https://y/>; rel="last"'),
        ok([{"id": 2}], link='<https://x/>; rel="first"'),
    ]
    rows = await client.rows("/projects/{id}/jobs", what="list", path={"id": 1})
    assert [row["id"] for row in rows] == [1, 2]
    assert server.sent[1].url == following


async def test_the_token_never_goes_to_another_host(client: rest.Rest, server: Server) -> None:
    server.answers = [ok([], link='<http://evil.test/api/v4/projects/1/jobs?page=2>; rel="next"'), ok([])]
    await client.rows("/projects/{id}/jobs", what="list", path={"id": 1})
    assert server.sent[1].url == "https://gitlab.test/api/v4/projects/1/jobs?page=2"


async def test_pages_that_go_in_circles_are_refused(client: rest.Rest, server: Server) -> None:
    server.handler = lambda request: ok([], link='<https://gitlab.test/api/v4/x?page=2>; rel="next"')
    with pytest.raises(errors.ForgeUnavailable, match="circles"):
        await client.rows("/x", what="list")
    assert len(server.sent) == 2


async def test_half_a_list_is_no_list(client: rest.Rest, server: Server) -> None:
    server.answers = [ok([{"id": 1}], link='<https://gitlab.test/api/v4/x?page=2>; rel="next"'), ok({}, 500)]
    with pytest.raises(errors.ForgeUnavailable):
        await client.rows("/x", what="list")


@pytest.mark.parametrize("body", [{"id": 1}, ["x"], None], ids=["object", "strings", "null"])
async def test_what_is_no_list_of_objects_is_refused(client: rest.Rest, server: Server, body: object) -> None:
    server.answers = [ok(body)]
    with pytest.raises(errors.ForgeUnavailable):
        await client.rows("/x", what="list")


async def test_the_servers_clock_is_read(client: rest.Rest, server: Server) -> None:
    server.answers = [ok({}, date="Mon, 21 Sep 2026 14:13:20 GMT")]
    await look(client)
    assert client.server_date == (START, START)


async def test_after_a_429_nothing_is_sent_until_the_time_told(
    client: rest.Rest, server: Server, clock: virtual.Clock
) -> None:
    date = "Mon, 21 Sep 2026 14:13:20 GMT"
    server.answers = [ok({}, 429, date=date, ratelimit_reset=str(int(START) + 40), retry_after="5"), ok({})]
    with pytest.raises(errors.ForgeThrottled) as caught:
        await look(client)
    assert caught.value.retry_after == 40.0
    with pytest.raises(errors.ForgeThrottled):
        await look(client)
    assert len(server.sent) == 1, "a waiting caller is told, nothing is sent"
    await client.get("/x", what="poll", urgency=rate_limits.Urgency.BACKGROUND)
    assert server.times == [0.0, 40.0]


async def test_little_left_of_the_servers_limit_stops_polls_but_not_runners(
    client: rest.Rest, server: Server, clock: virtual.Clock
) -> None:
    date = "Mon, 21 Sep 2026 14:13:20 GMT"
    left: dict[str, Any] = {"date": date, "ratelimit_limit": "600", "ratelimit_remaining": "30"}
    server.handler = lambda request: ok({}, **left, ratelimit_reset=str(int(START) + 30))
    await client.get("/x", what="poll", urgency=rate_limits.Urgency.BACKGROUND)
    await client.call("POST", "/user/runners", what="create", body={})
    await client.get("/x", what="poll", urgency=rate_limits.Urgency.BACKGROUND)
    assert server.times == [0.0, 0.0, 30.0]
    assert client.pace.remaining == 30


async def test_foreground_requests_pass_a_crowd_of_polls(client: rest.Rest, server: Server) -> None:
    server.handler = lambda request: ok({})
    polls = [
        asyncio.create_task(client.get("/x", what="poll", urgency=rate_limits.Urgency.BACKGROUND)) for _ in range(100)
    ]
    await asyncio.sleep(1)
    before = asyncio.get_running_loop().time()
    for _ in range(10):
        await client.call("POST", "/user/runners", what="create", body={})
    assert asyncio.get_running_loop().time() == before
    await asyncio.gather(*polls)
    for start in server.times:
        assert sum(1 for other in server.times if start <= other < start + 60) <= 60


async def test_several_failures_in_a_row_pause_polls_up_to_a_minute(client: rest.Rest, server: Server) -> None:
    server.handler = lambda request: ok({}, 503)
    for _ in range(20):
        with pytest.raises(errors.ForgeUnavailable):
            await client.get("/x", what="poll", urgency=rate_limits.Urgency.BACKGROUND)
    gaps = [later - earlier for earlier, later in zip(server.times, server.times[1:], strict=False)]
    assert gaps[:4] == [0, 0, 0, 0] and all(48 <= gap <= 60 for gap in gaps[-5:])


async def test_a_token_is_read_again_after_it_was_refused(server: Server, clock: virtual.Clock) -> None:
    values = iter(["old-token", "new-token"])
    client = rest.Rest(
        "gl",
        "https://gitlab.test",
        lambda: next(values),
        clock=clock,
        transport=server,
        rng=random.Random(1),
        per_minute=60,
    )
    server.answers = [ok({}, 401), ok({})]
    with pytest.raises(errors.ForgeAuthFailed):
        await client.get("/x", what="look")
    await client.get("/x", what="look")
    assert [request.headers["PRIVATE-TOKEN"] for request in server.sent] == ["old-token", "new-token"]


async def test_a_missing_token_file_is_a_failed_log_in_and_sends_nothing(server: Server, clock: virtual.Clock) -> None:
    def missing() -> str:
        raise errors.SecretMissing("file:/etc/runnerd/gitlab does not exist")

    client = rest.Rest("gl", URL, missing, clock=clock, transport=server, rng=random.Random(1), per_minute=60)
    with pytest.raises(errors.ForgeAuthFailed, match="/etc/runnerd/gitlab"):
        await client.get("/x", what="look")
    assert server.sent == []
