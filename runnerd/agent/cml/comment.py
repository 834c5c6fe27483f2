"""``cml comment create`` and ``cml comment update``: a report file becomes a comment.

The order is upstream's: files are uploaded, then the target is looked up, then the comment is posted or
replaced.
"""

from __future__ import annotations

import dataclasses
import pathlib
import typing
import urllib.parse

from runnerd.agent.cml import assets, driver, failures, markdown, repository, watermark
from runnerd.agent.cml import context as contexts
from runnerd.agent.cml import job as jobs

#: GitLab's address is probed again for each file, as upstream does, but at most so often: a report with a
#: hundred links would otherwise send hundreds of useless requests.
_MOST_PROBES = 8

#: Seconds between two polls of watched files, and the number of polls for which they must not change.
_WATCH_INTERVAL = 1.0
_STABLE_POLLS = 2


@dataclasses.dataclass(frozen=True)
class Request:
    """One invocation of ``comment create`` or ``comment update``."""

    #: The report, as named on the command line; links in it are relative to its directory.
    report: pathlib.Path
    #: ``auto``, ``pr``, ``commit``, ``commit/SHA``, ``pr/N`` or ``issue/N``; empty is ``auto``.
    target: str = ""
    #: Deprecated ``--pr`` and ``--commit-sha``.
    pull_request: bool = False
    sha: str = ""
    publish: bool = True
    update: bool = False
    marked: bool = True
    title: str = ""


def post(context: contexts.Context, forge: driver.Driver, publisher: assets.Publisher, request: Request) -> str:
    """Post or update the comment and return its URL."""
    mark = _mark(context, forge, request)
    try:
        # Read as bytes: the line ends stay as the author wrote them.
        text = request.report.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise failures.Failure(
            f"the report {request.report} cannot be read: {reason}", "give the path of a markdown file"
        ) from error
    body = _with_mark(text, mark, tidy=request.publish)
    if request.publish:
        body = _published(context, forge, publisher, request.report.parent, body)
    target = find_target(context, forge, request)
    if request.update:
        wanted = mark.is_in if mark is not None else _anything
        earlier = forge.newest(target, wanted)
        if earlier is not None:
            return forge.update(target, earlier, body)
    return forge.create(target, body)


def find_target(context: contexts.Context, forge: driver.Driver, request: Request) -> driver.Target:
    """Resolve ``--target`` and its deprecated forms to one commit, pull request or issue."""
    wanted = request.target or "auto"
    if request.sha:
        forge.warn('Deprecation warning: use --target="commit/<sha>" instead of --commit-sha=<sha>')
        wanted = f"commit/{request.sha}"
    if request.pull_request:
        forge.warn("Deprecation warning: use --target=pr instead of --pr")
        wanted = "pr"
    word = wanted.lower()
    if word == "commit":
        return driver.Target("commit", _commit(context, forge))
    if word in ("pr", "auto"):
        number = forge.pull_request
        if not number:
            sha = _commit(context, forge)
            number = next(iter(forge.pull_requests_of(sha)), "")
            if not number and word == "auto":
                return driver.Target("commit", sha)
            if not number:
                raise failures.Failure(
                    f"no open pull request has the commit {sha}",
                    "open one first, or use --target=auto or --target=commit",
                )
        return driver.Target("pr", number)
    kind, slash, number = wanted.partition("/")
    if not slash or not number or kind.lower() not in ("commit", "pr", "issue"):
        raise failures.Failure(
            f'--target="{wanted}" is not a valid target',
            "write commit, pr, auto, commit/SHA, pr/NUMBER or issue/NUMBER",
        )
    return driver.Target(kind.lower(), number)


def watch(
    context: contexts.Context,
    forge: driver.Driver,
    publisher: assets.Publisher,
    request: Request,
    *,
    trigger: pathlib.Path | None,
) -> typing.NoReturn:
    """Post when a file changes and update from then on; ends only with the process.

    Watched are the report and the local files it refers to, or the trigger file alone, which is removed once
    served. The initial content is not posted: only changes are, as in upstream.
    """
    seen = _snapshot(request, trigger)
    pending: dict[pathlib.Path, tuple[int, int]] | None = None
    stable = 0
    context.info("watching for file changes...")
    while True:
        context.sleep(_WATCH_INTERVAL)
        now = _snapshot(request, trigger)
        if now == seen:
            pending, stable = None, 0
            continue
        # A file that is still being written changes between two polls.
        stable = stable + 1 if now == pending else 0
        pending = now
        if stable < _STABLE_POLLS - 1:
            continue
        if trigger is None or trigger in now:
            try:
                context.out(post(context, forge, publisher, request))
                request = dataclasses.replace(request, update=True)
            except failures.Failure as failure:
                context.warn(str(failure))
            if trigger is not None:
                trigger.unlink(missing_ok=True)
        seen, pending, stable = _snapshot(request, trigger), None, 0


def _snapshot(request: Request, trigger: pathlib.Path | None) -> dict[pathlib.Path, tuple[int, int]]:
    """Return modification time and size of each watched file that is there."""
    paths = [trigger] if trigger is not None else [request.report]
    if trigger is None:
        try:
            text = request.report.read_bytes().decode("utf-8-sig")
        except (OSError, UnicodeDecodeError):
            text = ""
        paths += [_local(request.report.parent, reference.url) for reference in markdown.references(text)]
    states = {}
    for path in paths:
        try:
            facts = path.stat()
        except (OSError, ValueError):
            continue
        states[path] = (facts.st_mtime_ns, facts.st_size)
    return states


def _mark(context: contexts.Context, forge: driver.Driver, request: Request) -> watermark.Watermark | None:
    if not request.marked:
        if request.update:
            raise failures.Failure(
                "a comment without a watermark cannot be found again",
                "leave out --rm-watermark or the update",
            )
        return None
    sha = request.sha or forge.sha or repository.commit(context)
    if not sha:
        context.warn(f"the commit is not known: {_commit_sources(context, forge)}")
    return watermark.Watermark(label=request.title, workflow=forge.workflow, run=forge.run, sha=sha)


def _with_mark(text: str, mark: watermark.Watermark | None, *, tidy: bool) -> str:
    """Append the mark; ``tidy`` ends the report with one newline, as upstream's printer of markdown does."""
    if not tidy:
        return f"{text}\n\n{mark}" if mark is not None else text
    text = text.strip("\r\n")
    return f"{text}\n\n{mark}\n" if mark is not None else f"{text}\n"


def _published(
    context: contexts.Context,
    forge: driver.Driver,
    publisher: assets.Publisher,
    directory: pathlib.Path,
    text: str,
) -> str:
    found = [each for each in markdown.references(text) if not each.title.startswith(watermark.TITLE)]
    if publisher.native:
        for _ in found[:_MOST_PROBES]:
            forge.probe()
    replacements: dict[markdown.Reference, str] = {}
    for each in found:
        if each.url.startswith("data:image/"):
            upload = assets.embedded(each.url)
            if upload is None:
                context.warn(f"an embedded image cannot be decoded and is left as it is: {each.url[:40]}...")
        else:
            upload = assets.read(_local(directory, each.url))
            if upload is None and each.kind is markdown.Kind.IMAGE and _looks_local(each.url):
                context.warn(f"image not found, left as it is: {each.url}")
        if upload is not None:
            replacements[each] = publisher.publish(upload)
    if publisher.native and found:
        # And once more for the comment itself.
        forge.probe()
    return markdown.rewrite(text, replacements)


def _local(directory: pathlib.Path, url: str) -> pathlib.Path:
    """Return the file that a link would mean; `%20` counts as a space where the plain name does not exist."""
    plain = directory / url
    try:
        if "%" in url and not plain.exists():
            return directory / urllib.parse.unquote(url)
    except (OSError, ValueError):
        pass
    return plain


def _looks_local(url: str) -> bool:
    return not urllib.parse.urlsplit(url).scheme and not url.startswith(("//", "#"))


def _commit(context: contexts.Context, forge: driver.Driver) -> str:
    sha = forge.sha or repository.commit(context)
    if not sha:
        raise failures.Failure(
            f"the commit to comment on is not known: {_commit_sources(context, forge)}",
            "give --target=commit/SHA, pr/NUMBER or issue/NUMBER",
        )
    return sha


def _commit_sources(context: contexts.Context, forge: driver.Driver) -> str:
    variable = jobs.COMMIT_NAMED_BY[forge.name]
    return f"{variable} is not set, and git names no commit of the job's checkout in {context.directory}"


def _anything(_: str) -> bool:
    return True
