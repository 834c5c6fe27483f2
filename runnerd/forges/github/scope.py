"""The scope that a GitHub URL names: its host, its owner of runners, its API paths.

Parsing follows the reference client (actions/scaleset, config.go).  Nothing here asks a server; a URL that names no
organisation, repository or enterprise is refused with the forms that are valid.
"""

from __future__ import annotations

import enum
import urllib.parse
from dataclasses import dataclass


class Kind(enum.StrEnum):
    """The kind of owner of runners."""

    #: An organisation.
    ORGANIZATION = "organization"
    #: One repository.
    REPOSITORY = "repository"
    #: An enterprise.
    ENTERPRISE = "enterprise"


@dataclass(frozen=True, slots=True)
class Scope:
    """One owner of runners on one host."""

    kind: Kind
    #: ``acme``, ``acme/ml`` or ``enterprises/x``: the ``scope`` of a :class:`runnerd.model.Queue`.
    name: str
    #: The URL that registration names, without a trailing slash.
    url: str
    #: ``https://github.com``: the address for people.
    web: str
    #: Root of the REST API.
    api: str
    #: False for GitHub Enterprise Server.
    hosted: bool

    @property
    def path(self) -> str:
        """The owner in REST paths: ``orgs/acme``, ``repos/acme/ml``, ``enterprises/x``."""
        if self.kind is Kind.ORGANIZATION:
            return f"orgs/{self.name}"
        if self.kind is Kind.REPOSITORY:
            return f"repos/{self.name}"
        return self.name

    @property
    def template(self) -> str:
        """The same path with the names left out, for metrics."""
        return {
            Kind.ORGANIZATION: "orgs/{org}",
            Kind.REPOSITORY: "repos/{owner}/{repo}",
            Kind.ENTERPRISE: "enterprises/{enterprise}",
        }[self.kind]

    @property
    def repository(self) -> str | None:
        """The only repository of the scope, where it is one."""
        return self.name if self.kind is Kind.REPOSITORY else None

    def permission(self, *, app: bool) -> str:
        """Return the permission that runners of this scope need, in GitHub's own terms."""
        if self.kind is Kind.ENTERPRISE:
            return "a classic token with manage_runners:enterprise (GitHub refuses Apps here)"
        if self.kind is Kind.ORGANIZATION:
            if app:
                return 'the App permission "Self-hosted runners: read and write" of the organisation'
            return 'the scope admin:org (classic token) or "Self-hosted runners: read and write" (fine-grained token)'
        if app:
            return 'the App permission "Administration: read and write" of the repository'
        return 'the scope repo (classic token) or "Administration: read and write" (fine-grained token)'


def parse(url: str) -> Scope:
    """Return the scope of a URL.  Raises ValueError, naming the forms that are valid."""
    parts = urllib.parse.urlsplit(url.strip())
    host = (parts.hostname or "").lower()
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError(f"{url!r} is not a web address; write https://github.com/acme")
    names = [urllib.parse.unquote(name) for name in parts.path.split("/") if name]
    web = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    # `enterprises/x` has two parts like a repository; read as one, it would ask for runners of the wrong owner.
    if len(names) == 2 and names[0].lower() == "enterprises":
        kind, name = Kind.ENTERPRISE, f"enterprises/{names[1]}"
    elif len(names) == 2:
        kind, name = Kind.REPOSITORY, f"{names[0]}/{names[1].removesuffix('.git')}"
    elif len(names) == 1 and names[0].lower() != "enterprises":
        kind, name = Kind.ORGANIZATION, names[0]
    else:
        raise ValueError(f"{url!r} names no owner of runners; write …/acme, …/acme/repo or …/enterprises/acme")
    hosted = host in ("github.com", "www.github.com", "github.localhost") or host.endswith(".ghe.com")
    if hosted:
        netloc = web.split("//", 1)[1]
        api = f"{parts.scheme}://api.{netloc.removeprefix('www.')}"
    else:
        api = f"{web}/api/v3"
    return Scope(kind, name, f"{web}/{name}", web, api, hosted)
