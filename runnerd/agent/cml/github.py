"""Comments on GitHub, GitHub Enterprise Server and ghe.com, by the requests that upstream sends.

Paths, bodies, media types and the ``token`` scheme are those recorded from CML 0.20.6. Telemetry is never
sent; upstream's request for the acting user, which belongs to it, is, so that the sequence of requests stays
the same.
"""

from __future__ import annotations

import json
import re
import typing
import urllib.parse

from runnerd.agent.cml import context as contexts
from runnerd.agent.cml import driver, failures, repository, transport
from runnerd.agent.cml import job as jobs

_ACCEPT = "application/vnd.github.v3+json"
#: Media type by which upstream asks for the pull requests of a commit.
_ACCEPT_PULLS = "application/vnd.github.groot-preview+json"
#: Seconds for the request whose answer is not used.
_GREETING_TIMEOUT = 10.0
#: Pages of comments that are looked through at most; 30 comments each.
_MOST_PAGES = 200
_LINK = re.compile(r'<([^>]+)>\s*;[^,]*\brel="?(\w+)"?')


class Github:
    """One repository on GitHub."""

    name = jobs.GITHUB
    can_upload = False

    def __init__(
        self, context: contexts.Context, http: transport.Transport, *, repo: repository.Repository, token: str
    ) -> None:
        self._context = context
        self._http = http
        self._token = token
        path = urllib.parse.urlsplit(repo.address).path.strip("/").split("/")
        if len(path) < 2:
            raise failures.Failure(f"{repo.address} is not a repository", "give https://HOST/OWNER/NAME with --repo")
        self._repo = f"/repos/{_quoted(path[0])}/{_quoted(path[1])}"
        self._base = repo.api or _api(repo.address)
        self._event: dict[str, typing.Any] | None = None

    @property
    def sha(self) -> str:
        if self._context.env.get("GITHUB_EVENT_NAME") == "pull_request":
            head = str(self._pull_request_event().get("head", {}).get("sha", ""))
            if head:
                return head
        return self._context.env.get("GITHUB_SHA", "")

    @property
    def pull_request(self) -> str:
        if self._context.env.get("GITHUB_EVENT_NAME") in ("pull_request", "pull_request_target"):
            return str(self._pull_request_event().get("number", ""))
        return ""

    @property
    def workflow(self) -> str:
        return self._context.env.get("GITHUB_WORKFLOW", "")

    @property
    def run(self) -> str:
        return self._context.env.get("GITHUB_RUN_ID", "")

    def greet(self) -> None:
        env = self._context.env
        actor = env.get("GITHUB_ACTOR", "")
        if not actor or not env.get("GITHUB_SERVER_URL") or env.get("CODESPACES"):
            return
        try:
            self._http.send(
                "GET",
                f"{self._base}/users/{_quoted(actor)}",
                headers=self._headers(),
                once=True,
                timeout=_GREETING_TIMEOUT,
            )
        except failures.Failure as error:
            self._context.debug(str(error))

    def warn(self, text: str) -> None:
        self._context.annotate(text)

    def pull_requests_of(self, sha: str) -> list[str]:
        answer = self._call("GET", f"{self._repo}/commits/{_quoted(sha)}/pulls?state=open", accept=_ACCEPT_PULLS)
        return [str(pull["html_url"]).rstrip("/").rpartition("/")[2] for pull in answer.json()]

    def newest(self, target: driver.Target, wanted: typing.Callable[[str], bool]) -> str | None:
        first = self._call("GET", self._comments(target))
        answers = [first]
        links = _links(first)
        if "last" in links:
            # The oldest come first, so pages are read from the end; upstream reads the first page only.
            pages = _pages_backwards(links["last"])
            answers = []
            for url in pages:
                answer = self._call("GET", url)
                match = _last_wanted(answer, wanted)
                if match is not None:
                    return match
            answers.append(first)
        else:
            while "next" in links and len(answers) < _MOST_PAGES:
                answer = self._call("GET", links["next"])
                answers.append(answer)
                links = _links(answer)
        for answer in reversed(answers):
            match = _last_wanted(answer, wanted)
            if match is not None:
                return match
        return None

    def create(self, target: driver.Target, report: str) -> str:
        return self._url(self._call("POST", self._comments(target), body={"body": report}))

    def update(self, target: driver.Target, comment: str, report: str) -> str:
        kind = "comments" if target.kind == "commit" else "issues/comments"
        return self._url(self._call("PATCH", f"{self._repo}/{kind}/{_quoted(comment)}", body={"body": report}))

    def probe(self) -> None:
        """Do nothing: the API's address follows from the repository's."""

    def upload(self, upload: driver.Upload) -> str:
        raise failures.Failure(
            f"{upload.name} cannot be kept on GitHub: it takes no uploads for comments",
            "leave out --native, and set CML_ASSET_URL to an asset store",
        )

    def _pull_request_event(self) -> dict[str, typing.Any]:
        if self._event is None:
            self._event = driver.event(self._context)
        pull_request = self._event.get("pull_request")
        return pull_request if isinstance(pull_request, dict) else {}

    def _comments(self, target: driver.Target) -> str:
        kind = "commits" if target.kind == "commit" else "issues"
        return f"{self._repo}/{kind}/{_quoted(target.id)}/comments"

    def _headers(self, accept: str = _ACCEPT) -> dict[str, str]:
        return {"Accept": accept, "Authorization": f"token {self._token}"}

    def _call(
        self, method: str, path: str, *, body: dict[str, str] | None = None, accept: str = _ACCEPT
    ) -> transport.Answer:
        headers = self._headers(accept)
        data = None
        if body is not None:
            data = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
            headers["Content-Type"] = "application/json; charset=utf-8"
        url = path if "://" in path else self._base + path
        if not url.startswith(self._base + "/"):
            raise failures.Failure(
                f"{self._base} points to another server for more: {transport.host(url)}",
                "give the repository's address on that server with --repo, if it may have the token",
            )
        answer = self._http.send(method, url, headers=headers, body=data)
        if answer.status >= 400:
            raise _refused(method, answer)
        return answer

    def _url(self, answer: transport.Answer) -> str:
        comment = answer.json()
        return str(comment.get("html_url", "")) if isinstance(comment, dict) else ""


def _api(address: str) -> str:
    """Return the API's address by the host, for repositories that are not on the job's server."""
    parts = urllib.parse.urlsplit(address)
    hostname = parts.hostname or ""
    if hostname == "github.com" or hostname.endswith(".ghe.com"):
        return f"https://api.{hostname}"
    return f"{parts.scheme}://{parts.netloc}/api/v3"


def _last_wanted(answer: transport.Answer, wanted: typing.Callable[[str], bool]) -> str | None:
    for comment in reversed(answer.json()):
        if wanted(comment.get("body") or ""):
            return str(comment["id"])
    return None


def _links(answer: transport.Answer) -> dict[str, str]:
    return {relation: url for url, relation in _LINK.findall(answer.headers.get("link", ""))}


def _pages_backwards(last: str) -> list[str]:
    parts = urllib.parse.urlsplit(last)
    query = urllib.parse.parse_qsl(parts.query)
    number = next((value for name, value in query if name == "page"), "")
    if not number.isdigit():
        return [last]
    pages = range(int(number), max(1, int(number) - _MOST_PAGES), -1)
    urls = []
    for page in pages:
        changed = [(name, str(page) if name == "page" else value) for name, value in query]
        urls.append(urllib.parse.urlunsplit(parts._replace(query=urllib.parse.urlencode(changed))))
    return urls


def _quoted(text: str) -> str:
    return urllib.parse.quote(text, safe="~")


def _refused(method: str, answer: transport.Answer) -> failures.Refused:
    said = transport.excerpt(answer.text)
    what = f"{method} {transport.place(answer.url)} was answered with {answer.status}: {said or 'nothing'}"
    remedy = {
        401: "the token is wrong or has expired: check REPO_TOKEN",
        403: "the token may not do this: give the workflow "
        "`permissions: {contents: write, pull-requests: write}`, or use a personal access token",
        404: "check --repo and --target; a token that may not see the repository gets the same answer",
        410: "issues or comments are disabled or locked in this repository",
        422: "GitHub refuses the text or the target: a comment has at most 65536 characters, "
        "and a commit has to be pushed before it can be commented",
    }.get(answer.status, "run this again later" if answer.status >= 500 else "")
    return failures.Refused(what, remedy, status=answer.status)
