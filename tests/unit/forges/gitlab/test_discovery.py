from __future__ import annotations

import pytest

from runnerd import errors
from runnerd.forges.gitlab import discovery, matching, rest
from runnerd.kit import http
from tests.support import virtual
from tests.unit.forges.gitlab.gl_lab import (
    Server,
    ok,
)

ROW = {"id": 7, "path_with_namespace": "acme/ml", "visibility": "private"}


def directory(client: rest.Rest, clock: virtual.Clock, **scopes: list[str]) -> discovery.Directory:
    return discovery.Directory(
        client, groups=scopes.get("groups", ["acme"]), projects=scopes.get("projects", []), clock=clock
    )


async def test_a_group_is_listed_with_its_subgroups(client: rest.Rest, server: Server, clock: virtual.Clock) -> None:
    server.answers = [ok({"id": 3}), ok([ROW, {"id": 8, "path_with_namespace": "acme/sub/net"}])]
    known = directory(client, clock)
    await known.refresh(known.scope("acme"))
    assert [project.path for project in known.projects("acme")] == ["acme/ml", "acme/sub/net"]
    url = server.sent[1].url
    assert "/groups/3/projects?" in url and "include_subgroups=true" in url and "archived=false" in url
    assert "pagination=keyset" in url


async def test_a_gitlab_without_keyset_for_projects_is_paged_all_the_same(
    client: rest.Rest, server: Server, clock: virtual.Clock
) -> None:
    server.answers = [ok({"id": 3}), ok({"error": "Keyset pagination is not yet available"}, 405), ok([ROW]), ok([ROW])]
    known = directory(client, clock)
    await known.refresh(known.scope("acme"))
    await known.refresh(known.scope("acme"))
    assert known.projects("acme")[0].id == 7
    assert ["keyset" in request.url for request in server.sent] == [False, True, False, False]


async def test_half_a_listing_replaces_nothing(client: rest.Rest, server: Server, clock: virtual.Clock) -> None:
    more = '<https://gitlab.test/api/v4/groups/3/projects?id_after=7>; rel="next"'
    server.answers = [ok({"id": 3}), ok([ROW]), ok([], link=more), ok({}, 500)]
    known = directory(client, clock)
    await known.refresh(known.scope("acme"))
    with pytest.raises(errors.ForgeUnavailable):
        await known.refresh(known.scope("acme"))
    assert [project.id for project in known.projects("acme")] == [7]


async def test_archived_projects_and_those_without_ci_are_left_out(
    client: rest.Rest, server: Server, clock: virtual.Clock
) -> None:
    rows = [{**ROW, "archived": True}, {**ROW, "id": 8, "builds_access_level": "disabled"}, {"id": "x"}]
    server.answers = [ok({"id": 3}), ok(rows)]
    known = directory(client, clock)
    await known.refresh(known.scope("acme"))
    assert known.projects("acme") == () and known.known("acme")


async def test_a_project_belongs_to_one_scope_only(client: rest.Rest, clock: virtual.Clock) -> None:
    known = directory(client, clock, groups=["acme", "acme/sub"], projects=["acme/ml"])
    assert known.owner("acme/ml") == "acme/ml"
    assert known.owner("acme/sub/net") == "acme/sub"
    assert known.owner("acme/other") == "acme"
    assert known.owner("acmeother/x") is None and known.owner("acme") is None


async def test_a_project_listed_by_itself_is_left_out_of_its_group(
    client: rest.Rest, server: Server, clock: virtual.Clock
) -> None:
    server.answers = [ok({"id": 3}), ok([ROW, {"id": 8, "path_with_namespace": "acme/other"}]), ok(ROW)]
    known = directory(client, clock, projects=["acme/ml"])
    for scope in known.scopes:
        await known.refresh(scope)
    assert [project.id for project in known.projects("acme")] == [8]
    assert [project.id for project in known.projects("acme/ml")] == [7]


async def test_protected_refs_are_asked_once_in_five_minutes(
    client: rest.Rest, server: Server, clock: virtual.Clock
) -> None:
    def answer(request: http.Request) -> http.Response:
        return ok([{"name": "main"}] if "branches" in request.url else [{"name": "v*"}])

    server.handler = answer
    known = directory(client, clock)
    project = discovery.Project(7, "acme/ml", "acme")
    for _ in range(3):
        assert await known.protection(project) == matching.Protection(("main",), ("v*",))
    assert len(server.sent) == 2
    await clock.sleep(discovery.PROTECTION_KEPT_S + 1)
    await known.protection(project)
    assert len(server.sent) == 4
