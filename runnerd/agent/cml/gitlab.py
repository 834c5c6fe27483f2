"""Notes on GitLab, by the requests that upstream sends.

Paths and form bodies are those recorded from CML 0.20.6. The API's address is the job's ``CI_API_V4_URL`` for
repositories on the job's server. For others it is probed as upstream does: the first prefix of the repository's
path that answers, so sub-path installs work.
"""

from __future__ import annotations

import typing
import urllib.parse

from runnerd.agent.cml import context as contexts
from runnerd.agent.cml import driver, failures, repository, transport
from runnerd.agent.cml import job as jobs

#: A note of that many characters or more is refused by GitLab.
_LONGEST_NOTE = 1_000_000
#: Pages of notes that are looked through at most; 20 notes each.
_MOST_PAGES = 200


class Gitlab:
    """One project on GitLab."""

    name = jobs.GITLAB
    can_upload = True

    def __init__(
        self, context: contexts.Context, http: transport.Transport, *, repo: repository.Repository, token: str
    ) -> None:
        self._context = context
        self._http = http
        self._repo = repo.address
        self._token = token
        #: Web address of the GitLab and address of its API; empty until they are probed.
        self._server = repo.server if repo.api else ""
        self._api = repo.api
        self._stated = bool(repo.api)

    @property
    def sha(self) -> str:
        return self._context.env.get("CI_COMMIT_SHA", "")

    @property
    def pull_request(self) -> str:
        return self._context.env.get("CI_MERGE_REQUEST_IID", "")

    @property
    def workflow(self) -> str:
        return self._context.env.get("CI_PIPELINE_ID", "")

    @property
    def run(self) -> str:
        return self._context.env.get("CI_JOB_ID", "")

    def greet(self) -> None:
        """Do nothing: upstream asks GitLab for nothing before a command."""

    def warn(self, text: str) -> None:
        self._context.warn(text)

    def pull_requests_of(self, sha: str) -> list[str]:
        requests = self._call("GET", f"/repository/commits/{_quoted(sha)}/merge_requests").json()
        return [
            str(request["web_url"]).rstrip("/").rpartition("/")[2]
            for request in requests
            if request.get("state") == "opened"
        ]

    def newest(self, target: driver.Target, wanted: typing.Callable[[str], bool]) -> str | None:
        """See :meth:`driver.Driver.newest`; GitLab lists the newest notes first, but the oldest commit comments."""
        path = self._notes(target)
        text = "note" if target.kind == "commit" else "body"
        best: str | None = None
        page = ""
        for _ in range(_MOST_PAGES):
            answer = self._call("GET", f"{path}?page={page}" if page else path)
            ids = [note.get("id") for note in answer.json() if wanted(note.get(text) or "")]
            if ids and target.kind == "commit":
                # Commit comments have no id and no update; that there is one is all the caller can use.
                best = str(ids[-1] or "")
            elif ids:
                return str(max(ids))
            page = answer.headers.get("x-next-page", "")
            if not page.isdigit():
                break
        return best

    def create(self, target: driver.Target, report: str) -> str:
        field = "note" if target.kind == "commit" else "body"
        answer = self._call("POST", self._notes(target), form={field: _fitting(report)})
        return self._url(target, answer)

    def update(self, target: driver.Target, comment: str, report: str) -> str:
        if target.kind == "commit":
            raise failures.Failure(
                "GitLab does not support comment updates on commits",
                "use `comment create`, or run in merge request pipelines so that the report is a note",
            )
        form = {"body": _fitting(report)}
        return self._url(target, self._call("PUT", f"{self._notes(target)}/{_quoted(comment)}", form=form))

    def probe(self) -> None:
        """Ask each prefix of the repository's path for the API's version; the first that answers is the server.

        Upstream repeats this for each file that it considers for upload, and so do the callers. Where the job states
        the API's address nothing is probed, and no other path of the host receives the token.

        :raises failures.Failure: none answered like a GitLab.
        """
        if self._stated:
            return
        parts = urllib.parse.urlsplit(self._repo)
        words = parts.path.strip("/").split("/")
        bases: list[str] = []
        refusals: list[failures.Failure] = []
        for count in range(len(words)):
            base = "/".join([f"{parts.scheme}://{parts.netloc}", *words[:count]])
            try:
                answer = self._http.send("GET", f"{base}/api/v4/version", headers=self._headers())
                if answer.status >= 400:
                    raise _refused("GET", answer)
                version = answer.json()
                if isinstance(version, dict) and version.get("version"):
                    bases.append(base)
            except failures.Failure as failure:
                refusals.append(failure)
        if bases:
            self._server = bases[0]
            self._api = f"{bases[0]}/api/v4"
        elif refusals:
            raise refusals[0]
        else:
            raise failures.Failure(f"no GitLab answers at {self._repo}", "check --repo and --driver")

    def upload(self, upload: driver.Upload) -> str:
        boundary = "-" * 26 + self._context.new_uuid().replace("-", "")[:24]
        name = upload.name.replace("\\", "\\\\").replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
        head = (
            f"--{boundary}\r\n"
            f'Content-Disposition: form-data; name="file"; filename="{name}"\r\n'
            f"Content-Type: {upload.mime}\r\n\r\n"
        )
        body = head.encode("utf-8") + upload.data + f"\r\n--{boundary}--\r\n".encode()
        content_type = f"multipart/form-data;boundary={boundary}"
        uploaded = self._call("POST", "/uploads", body=body, content_type=content_type).json()
        return str(uploaded["url"])

    def _notes(self, target: driver.Target) -> str:
        kinds = {"commit": "repository/commits", "pr": "merge_requests", "issue": "issues"}
        last = "comments" if target.kind == "commit" else "notes"
        return f"/{kinds[target.kind]}/{_quoted(target.id)}/{last}"

    def _url(self, target: driver.Target, answer: transport.Answer) -> str:
        if target.kind == "commit":
            return f"{self._repo}/-/commit/{target.id}"
        kind = "merge_requests" if target.kind == "pr" else "issues"
        return f"{self._repo}/-/{kind}/{target.id}#note_{answer.json()['id']}"

    def _headers(self) -> dict[str, str]:
        return {"PRIVATE-TOKEN": self._token, "Accept": "application/json"}

    def _call(
        self,
        method: str,
        path: str,
        *,
        form: dict[str, str] | None = None,
        body: bytes | None = None,
        content_type: str = "",
    ) -> transport.Answer:
        if not self._api:
            self.probe()
        headers = self._headers()
        if form is not None:
            body = "&".join(f"{name}={_form_value(value)}" for name, value in form.items()).encode()
            content_type = "application/x-www-form-urlencoded;charset=UTF-8"
        if content_type:
            headers["Content-Type"] = content_type
        project = _quoted(self._repo[len(self._server) :].strip("/"))
        url = f"{self._api}/projects/{project}{path}"
        answer = self._http.send(method, url, headers=headers, body=body)
        if answer.status >= 400:
            raise _refused(method, answer)
        return answer


def _fitting(report: str) -> str:
    if len(report) >= _LONGEST_NOTE:
        raise failures.Failure(
            f"the report has {len(report)} characters, GitLab takes fewer than {_LONGEST_NOTE}",
            "shorten it, or publish the large parts as files and link them",
        )
    return report


def _quoted(text: str) -> str:
    return urllib.parse.quote(text, safe="~!*'()")


def _form_value(text: str) -> str:
    # The form encoding of browsers: `*` stays and `~` does not, other than in Python's.
    return urllib.parse.quote_plus(text, safe="*", errors="replace").replace("~", "%7E")


def _refused(method: str, answer: transport.Answer) -> failures.Refused:
    said = transport.excerpt(answer.text)
    what = f"{method} {transport.place(answer.url)} was answered with {answer.status}: {said or 'nothing'}"
    remedy = {
        401: "the token is wrong or has expired: set REPO_TOKEN to a project access token with scope api",
        403: "the token may not do this: it needs scope api, and at least the Reporter role",
        404: "check --repo and --target; a token that may not see the project gets the same answer",
        413: "the file is larger than this GitLab takes",
    }.get(answer.status, "run this again later" if answer.status >= 500 else "")
    return failures.Refused(what, remedy, status=answer.status)
