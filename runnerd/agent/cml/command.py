"""Entry point of ``cml``: parses the command line, runs the command and reports errors."""

from __future__ import annotations

import io
import os
import sys
import traceback
import typing

from runnerd.agent.cml import assets, comment, driver, failures, github, gitlab, options, repository, transport
from runnerd.agent.cml import context as contexts
from runnerd.agent.cml import job as jobs

VERSION = "0.20.6 (built into runnerd)"

#: Commands of upstream that are not built in: their names, the reason, and a replacement.
_ELSEWHERE = (
    (
        ("runner", "runner launch"),
        "runnerd itself starts the runners",
        "delete the job that launches a runner, and give the other jobs the pool's name: "
        "`runs-on: POOL` on GitHub, `tags: [POOL]` on GitLab",
    ),
    (
        ("check", "check create", "send-github-check"),
        "it needs a GitHub App's token and works on GitHub only",
        "post the report with `cml comment create`, or write it to $GITHUB_STEP_SUMMARY; "
        "for a check, use `gh api repos/OWNER/NAME/check-runs` or upstream's cml",
    ),
    (
        ("pr", "pr create"),
        "it pushes to your repository",
        "use `gh pr create` or `glab mr create` after a git push, or upstream's cml",
    ),
    (
        ("tensorboard", "tensorboard connect", "tensorboard-dev"),
        "TensorBoard.dev was closed on 2024-01-01",
        "keep the logs as an artifact of the job, or publish plots with `cml comment create`",
    ),
    (
        ("workflow", "workflow rerun", "rerun-workflow"),
        "runnerd repeats interrupted jobs itself, if the pool says so",
        "use `gh run rerun` or the retry button of the forge",
    ),
    (
        ("repo", "repo prepare", "ci"),
        "runners check the repository out themselves",
        "use `fetch-depth: 0` of actions/checkout on GitHub, or GIT_DEPTH: 0 on GitLab",
    ),
)


def main(argv: typing.Sequence[str] | None = None, context: contexts.Context | None = None) -> int:
    """Run one command and return the exit code: 0, or 1 after a message on standard error.

    :param argv: the command line with the invoked name first: ``cml``, ``cml-publish``, ``cml-send-comment``,
    or any other
        ``cml-NAME``, which is ``cml NAME``. Default: the process's own.
    """
    argv = sys.argv if argv is None else argv
    if context is None:
        _write_utf8()
        context = contexts.Context()
    name = os.path.basename(argv[0]) if argv else "cml"
    arguments = list(argv[1:])
    if name.startswith("cml-"):
        arguments.insert(0, name[len("cml-") :])
    context.env = options.renamed(context.env)
    try:
        return _run(arguments, context)
    except failures.Failure as failure:
        context.error(str(failure))
    except KeyboardInterrupt:
        context.error("interrupted")
    except BrokenPipeError:
        # The reader of the output has gone.
        pass
    except Exception as error:
        # An unexpected error ends in one sentence; the trace is logged at level debug.
        context.debug(traceback.format_exc())
        context.error(
            f"unexpected {type(error).__name__}: {error}\n"
            "  what to do: run it again with --log=debug to see the requests and where it failed"
        )
    return 1


def _write_utf8() -> None:
    """Write UTF-8 in every locale: a report's title must not fail in a container without one."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="replace")


def _run(arguments: list[str], context: contexts.Context) -> int:
    words = [word for word in arguments if not word.startswith("-")]
    if options.find(words) is None:
        _refuse_elsewhere(words)
    parsed = options.parse(arguments, context.env)
    context.level = parsed.text("log") or "info"
    if parsed.flag("version"):
        context.out(VERSION)
        return 0
    if parsed.flag("help"):
        context.out(options.usage(parsed.command))
        return 0
    if parsed.command is None:
        _refuse_elsewhere(parsed.arguments)
        typed = " ".join(("cml", *parsed.arguments[:2]))
        raise failures.Failure(f"there is no command `{typed}`", "see cml --help")
    if len(parsed.arguments) != 1:
        typed = " ".join(("cml", *parsed.command.words))
        raise failures.Failure(
            f"{typed} takes one {parsed.command.argument}, and got {len(parsed.arguments) or 'none'}",
            f"write {typed} FILE (reading from standard input is not possible)",
        )
    if parsed.command.argument == "asset":
        return _publish(parsed, context)
    return _comment(parsed, context)


def _refuse_elsewhere(words: typing.Sequence[str]) -> None:
    for names, why, instead in _ELSEWHERE:
        if words and words[0] in names:
            raise failures.Failure(f"cml {words[0]} is not built in: {why}", instead)


def _comment(parsed: options.Parsed, context: contexts.Context) -> int:
    http = transport.Transport(context)
    forge = _forge(parsed, context, http)
    forge.greet()
    _warn_deprecated(parsed, context, forge)
    url = assets.store_url(
        (
            parsed.text("publish-url"),
            context.env.get("CML_ASSET_URL", ""),
        )
    )
    native = parsed.flag("publish-native") or (not url and forge.can_upload)
    publisher = assets.Publisher(
        context, http, url=url, native=native, forge=forge, watermark=not parsed.flag("rm-watermark")
    )
    assert parsed.command is not None
    request = comment.Request(
        context.directory / parsed.arguments[0],
        target=parsed.text("target"),
        pull_request=parsed.flag("pr"),
        sha=parsed.text("commit-sha"),
        publish=parsed.flag("publish", True),
        update=parsed.flag("update") or parsed.command.words[-1] == "update",
        marked=not parsed.flag("rm-watermark"),
        title=parsed.text("watermark-title"),
    )
    if parsed.flag("watch"):
        trigger = parsed.text("trigger-file")
        comment.watch(context, forge, publisher, request, trigger=context.directory / trigger if trigger else None)
    context.out(comment.post(context, forge, publisher, request))
    return 0


def _publish(parsed: options.Parsed, context: contexts.Context) -> int:
    http = transport.Transport(context)
    url = assets.store_url((parsed.text("url"), context.env.get("CML_COMMENT_PUBLISH_URL", "")))
    native = parsed.flag("native") or parsed.flag("gitlab-uploads")
    forge: driver.Driver | None = None
    try:
        forge = _forge(parsed, context, http)
    except failures.Failure as failure:
        # An asset store needs neither token nor repository; the forge is then optional.
        if native or not url:
            raise
        context.debug(str(failure))
    if forge is not None:
        forge.greet()
        native = native or (not url and forge.can_upload)
    _warn_deprecated(parsed, context, forge)
    if parsed.flag("gitlab-uploads"):
        context.warn("--gitlab-uploads will be deprecated soon, use --native instead")
    path = context.directory / parsed.arguments[0]
    upload = assets.read(path, parsed.text("mime-type"))
    if upload is None:
        raise failures.Failure(f"there is no file {path}", "check the path")
    publisher = assets.Publisher(
        context, http, url=url, native=native, forge=forge, watermark=not parsed.flag("rm-watermark")
    )
    output = publisher.publish(upload)
    if parsed.flag("md"):
        output = assets.as_markdown(output, upload.mime, title=parsed.text("title"), name=upload.name)
    if not parsed.text("file"):
        context.out(output)
        return 0
    written = context.directory / parsed.text("file")
    try:
        written.write_text(output, encoding="utf-8")
    except OSError as error:
        raise failures.Failure(f"{written} cannot be written: {error.strerror}") from error
    return 0


def _forge(parsed: options.Parsed, context: contexts.Context, http: transport.Transport) -> driver.Driver:
    repo = repository.find(context, parsed.text("repo"))
    name = driver.forge(context, parsed.text("driver"), repo.address)
    token = driver.token(context, parsed.text("driver-token"), name)
    if name == jobs.GITHUB:
        return github.Github(context, http, repo=repo, token=token)
    return gitlab.Gitlab(context, http, repo=repo, token=token)


def _warn_deprecated(parsed: options.Parsed, context: contexts.Context, forge: driver.Driver | None) -> None:
    assert parsed.command is not None
    if not parsed.command.deprecated:
        return
    if forge is not None:
        forge.warn(parsed.command.deprecated)
    else:
        context.warn(parsed.command.deprecated)
