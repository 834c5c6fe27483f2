"""A client of the simulated forges: the simulator's control endpoints and its pages."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_TIMEOUT_S = 10.0
_IMAGE = re.compile(r"!\[[^\]]*\]\((\S+?)(?:\s+[\"'][^)]*)?\)")
#: The image in every comment of CML; no forge shows it.
_WATERMARK = "https://cml.dev/watermark.png"


@dataclass(frozen=True, slots=True)
class Job:
    """One job at its forge.  Times are unix seconds, 0 for not yet."""

    id: int
    forge: str
    repo: str
    pull: int
    status: str
    conclusion: str
    #: The runner that took it, which has the name of its instance.
    runner: str
    queued_at: float
    started_at: float
    finished_at: float
    #: How often a runner started it.
    starts: int

    @property
    def title(self) -> str:
        return f"{self.repo} {'!' if self.forge == 'gitlab' else '#'}{self.pull}"

    @property
    def request(self) -> str:
        """The `target` of comments on its pull or merge request."""
        return f"{'merge_request' if self.forge == 'gitlab' else 'pull'}/{self.pull}"


@dataclass(frozen=True, slots=True)
class Report:
    """One comment with a report."""

    forge: str
    repo: str
    target: str
    url: str
    #: Addresses of the images in it.
    images: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class View:
    """The forges at one moment."""

    jobs: tuple[Job, ...]
    #: Names of registered runners, by forge.
    runners: Mapping[str, str]
    reports: tuple[Report, ...]

    def report(self, job: Job) -> Report | None:
        """Return the job's report; None while there is none."""
        for report in self.reports:
            same = (report.forge, report.repo) == (job.forge, job.repo)
            if same and report.target in (job.request, f"pull/{job.pull}"):
                return report
        return None


class Simulator:
    """The simulator at an address."""

    def __init__(self, url: str) -> None:
        self.url = url

    def queue(self, job: Mapping[str, Any]) -> None:
        """Queue a job.  Raises OSError, with the answer's text when it was refused."""
        data = json.dumps(job).encode()
        request = urllib.request.Request(  # noqa: S310  # our own address
            f"{self.url}/_sim/jobs", data=data, headers={"Content-Type": "application/json"}
        )
        try:
            urllib.request.urlopen(request, timeout=_TIMEOUT_S).close()  # noqa: S310
        except urllib.error.HTTPError as error:
            raise OSError(f"the simulator refused a job: {error.read().decode('utf-8', 'replace')[:300]}") from error

    def view(self) -> View:
        """Return the current state of the forges.  Raises OSError."""
        with urllib.request.urlopen(f"{self.url}/_sim/state", timeout=_TIMEOUT_S) as answer:  # noqa: S310
            return read(json.load(answer), self.url)


def fetch(url: str, *, timeout: float = _TIMEOUT_S) -> tuple[int, bytes]:
    """Return status and first bytes of an address; status 0 when it cannot be reached."""
    try:
        with urllib.request.urlopen(url, timeout=timeout) as answer:  # noqa: S310  # an address of the demo
            return int(answer.status), answer.read(4096)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, b""
    except (OSError, ValueError):
        return 0, b""


def read(state: Mapping[str, Any], url: str) -> View:
    """Parse the answer of `GET /_sim/state`."""
    jobs = tuple(
        Job(
            id=int(one["id"]),
            forge=str(one["forge"]),
            repo=str(one["repo"]),
            pull=int(one["pull_number"] or 0),
            status=str(one["status"]),
            conclusion=str(one["conclusion"] or ""),
            runner=str(one["runner"] or ""),
            queued_at=float(one["queued_at"]),
            started_at=float(one["started_at"] or 0.0),
            finished_at=float(one["finished_at"] or 0.0),
            starts=int(one["starts"]),
        )
        for one in state["jobs"]
    )
    return View(
        jobs=jobs,
        runners={str(one["name"]): str(one["forge"]) for one in state["runners"]},
        reports=tuple(_report(one, url) for one in state["comments"]),
    )


def _report(comment: Mapping[str, Any], base: str) -> Report:
    forge, repo, target, id = (comment[key] for key in ("forge", "repo", "target", "id"))
    number = str(target).rpartition("/")[2]
    if forge == "gitlab":
        url = f"{base}/{repo}/-/merge_requests/{number}#note_{id}"
    else:
        url = f"{base}/{repo}/pull/{number}#issuecomment-{id}"
    images = []
    for address in _IMAGE.findall(str(comment["body"])):
        if not address.startswith(_WATERMARK):
            images.append(urllib.parse.urljoin(base, address))
    return Report(str(forge), str(repo), str(target), url, tuple(images))
