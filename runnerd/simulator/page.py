"""The page: pull and merge requests, their reports and the jobs, for people.

Comments are rendered as Markdown and sanitised, as the forges do; images are shown from their absolute addresses.
Nothing can be changed here.
"""

from __future__ import annotations

import html
import time
from collections.abc import Sequence

import markdown_it
import nh3

from runnerd.simulator import http, world

#: jobs shown on the index, newest first
MOST_JOBS = 200

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; --good: #1a7f37; --bad: #cf222e; --wait: #9a6700; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem 1.5rem 4rem; }
header { border-bottom: 1px solid var(--line); margin-bottom: 1.5rem; }
header p { color: gray; margin-top: 0; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { text-align: left; padding: .35rem .6rem; border-bottom: 1px solid var(--soft); }
.comment { border: 1px solid var(--line); border-radius: .5rem; margin: 1rem 0; overflow: hidden; }
.comment > .by { background: var(--soft); padding: .4rem 1rem; font-size: .9rem; }
.comment > .body { padding: .5rem 1rem; overflow-x: auto; }
.comment img { max-width: 100%; }
.badge { border-radius: 1rem; padding: .05rem .6rem; font-size: .8rem; border: 1px solid currentColor; }
.success { color: var(--good); } .failure { color: var(--bad); } .queued, .in_progress { color: var(--wait); }
pre { background: var(--soft); padding: .7rem 1rem; overflow-x: auto; border-radius: .4rem; }
"""


def routes(shared: world.World) -> list[http.Route]:
    """Return the page's routes: the index, pull and merge requests, commits, jobs."""
    page = Page(shared)
    table = [
        ("/", page.index),
        ("/{owner}/{repo}/pull/{number}", page.pull),
        ("/{owner}/{repo}/-/merge_requests/{number}", page.merge),
        ("/{owner}/{group}/{repo}/-/merge_requests/{number}", page.merge),
        ("/{owner}/{repo}/commit/{sha}", page.commit),
        ("/{owner}/{repo}/actions/runs/{run}/job/{id}", page.job),
        ("/_sim/page/jobs/{id}", page.job),
    ]
    return [http.Route("GET", template, handler, "page") for template, handler in table]


def render(markdown: str) -> str:
    """Return Markdown as safe HTML."""
    parser = markdown_it.MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    return nh3.clean(
        parser.render(markdown),
        url_schemes={"http", "https", "data", "mailto"},
        attributes={
            "a": {"href", "title"},
            "img": {"src", "alt", "title", "width", "height"},
            "th": {"align"},
            "td": {"align"},
        },
    )


class Page:
    """Renders the world."""

    def __init__(self, shared: world.World) -> None:
        self._world = shared

    async def index(self, request: http.Request) -> http.Response:
        return _page("Simulated forges", f"<h2>Pull and merge requests</h2>{self._requests()}{self._jobs_section()}")

    async def pull(self, request: http.Request) -> http.Response:
        repo = f"{request.params['owner']}/{request.params['repo']}"
        return self._request("github", repo, request.params["number"], "pull")

    async def merge(self, request: http.Request) -> http.Response:
        names = (request.params.get("owner"), request.params.get("group"), request.params.get("repo"))
        repo = "/".join(name for name in names if name)
        return self._request("gitlab", repo, request.params["number"], "merge_request")

    async def commit(self, request: http.Request) -> http.Response:
        repo = f"{request.params['owner']}/{request.params['repo']}"
        sha = request.params["sha"]
        body = self._comments("github", repo, {f"commit/{sha}"})
        return _page(f"{repo} @ {sha[:10]}", body)

    async def job(self, request: http.Request) -> http.Response:
        id = request.params["id"]
        found = self._world.jobs.get(int(id)) if id.isdigit() else None
        if found is None:
            return _page("No such job", "<p>There is no job of that number.</p>", status=404)
        facts = _table(
            ("what", "value"),
            [
                (name, html.escape(str(value)))
                for name, value in (
                    ("repository", found.repo),
                    ("labels", ", ".join(found.labels)),
                    ("status", found.conclusion or found.status),
                    ("runner", found.runner or ""),
                    ("attempt", found.run_attempt),
                    ("begun", f"{found.starts} time(s)"),
                )
            ],
        )
        summary = f"<h2>Summary</h2><div class=comment><div class=body>{render(found.summary)}</div></div>"
        log = html.escape(found.log.decode("utf-8", "replace"))
        body = f"{facts}{summary if found.summary else ''}<h2>Log</h2><pre>{log}</pre>"
        return _page(f"{found.forge} job {found.name}", body)

    def _request(self, forge: str, repo: str, number: str, kind: str) -> http.Response:
        found = self._world.pulls.get((forge, repo, int(number))) if number.isdigit() else None
        if found is None:
            return _page("Not found", "<p>There is no such pull or merge request.</p>", status=404)
        targets = {f"{kind}/{number}", f"pull/{number}", f"merge_request/{number}", f"commit/{found.sha}"}
        jobs = [
            job
            for job in self._world.jobs.values()
            if (job.forge, job.repo, job.pull_number) == (forge, repo, found.number)
        ]
        title = f"{found.title} #{found.number}"
        lead = (
            f"<p>{html.escape(repo)}: <code>{html.escape(found.head_ref)}</code> into "
            f"<code>{html.escape(found.base_ref)}</code></p>"
        )
        return _page(title, lead + self._comments(forge, repo, targets) + "<h2>Jobs</h2>" + _jobs(jobs))

    def _comments(self, forge: str, repo: str, targets: set[str]) -> str:
        shown = [
            comment
            for comment in self._world.comments.values()
            if (comment.forge, comment.repo) == (forge, repo) and comment.target in targets
        ]
        if not shown:
            return "<p>No comments yet.</p>"
        return "".join(
            f'<article class=comment id="{_anchor(comment)}"><div class=by><b>{html.escape(comment.user)}</b> '
            f"commented {_moment(comment.created_at)}{_edited(comment)}</div>"
            f"<div class=body>{render(comment.body)}</div></article>"
            for comment in shown
        )

    def _requests(self) -> str:
        rows = []
        for (forge, repo, number), pull in self._world.pulls.items():
            path = f"/{repo}/pull/{number}" if forge == "github" else f"/{repo}/-/merge_requests/{number}"
            comments = sum(
                (item.forge, item.repo) == (forge, repo) and item.target.endswith(f"/{number}")
                for item in self._world.comments.values()
            )
            rows.append(
                (
                    f'<a href="{html.escape(path)}">{html.escape(pull.title)} #{number}</a>',
                    html.escape(repo),
                    forge,
                    str(comments),
                )
            )
        return _table(("request", "repository", "forge", "comments"), rows)

    def _jobs_section(self) -> str:
        newest = list(self._world.jobs.values())[-MOST_JOBS:][::-1]
        return f"<h2>Jobs</h2><p>{len(self._world.jobs)} in all.</p>{_jobs(newest)}"


def _jobs(jobs: list[world.Job]) -> str:
    rows = []
    for job in jobs:
        word = job.conclusion or job.status
        wait = f"{job.started_at - job.queued_at:.1f} s" if job.started_at is not None else ""
        rows.append(
            (
                f'<a href="/_sim/page/jobs/{job.id}">{html.escape(job.name)}</a>',
                html.escape(job.repo),
                html.escape(", ".join(job.labels)),
                f'<span class="badge {html.escape(word)}">{html.escape(word)}</span>',
                html.escape(job.runner or ""),
                wait,
            )
        )
    return _table(("job", "repository", "labels", "state", "runner", "waited"), rows)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Return a table of cells that are HTML already."""
    if not rows:
        return "<p>None yet.</p>"
    titles = "".join(f"<th>{title}" for title in head)
    lines = "".join("<tr>" + "".join(f"<td>{cell}" for cell in row) for row in rows)
    return f"<table><thead><tr>{titles}</thead><tbody>{lines}</tbody></table>"


def _moment(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(moment))


def _anchor(comment: world.Comment) -> str:
    """Return the fragment with which the forge's own addresses of a comment end."""
    if comment.forge == "gitlab":
        return f"note_{comment.id}"
    return f"{'commitcomment' if comment.target.startswith('commit/') else 'issuecomment'}-{comment.id}"


def _edited(comment: world.Comment) -> str:
    return " · edited" if comment.updated_at > comment.created_at else ""


def _page(title: str, body: str, *, status: int = 200) -> http.Response:
    shown = html.escape(title)
    return http.text_response(
        f"<!DOCTYPE html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{shown}</title><style>{_STYLE}</style><header><h1>{shown}</h1>"
        f"<p><a href='/'>simulator</a>: everything here is simulated</p></header>{body}</html>",
        status,
        kind="text/html",
    )
