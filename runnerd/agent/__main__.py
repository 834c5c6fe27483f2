"""``python agent.pyz --config agent.json``: the agent of one instance; ``python agent.pyz cml ...``: the job's tool."""

from __future__ import annotations

import argparse
import logging
import os
import pathlib
import platform
import sys
import typing

from runnerd.agent import client, cml, config, diagnostics, home, life, metadata, notices, preemption, processes

#: Exit codes: 0 in good order, 1 no session or no good end, 2 not usable as called.
OK, FAILED, USAGE = 0, 1, 2


def main(argv: typing.Sequence[str] | None = None) -> int:
    """Run the agent, or ``cml``; the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["cml"]:
        return cml.main(["cml", *arguments[1:]])
    parser = argparse.ArgumentParser(prog="agent.pyz", description="The part of runnerd that runs on an instance.")
    parser.add_argument("--config", metavar="FILE", help="agent.json, as written by the boot script")
    parser.add_argument(
        "--version",
        action="version",
        version=f"runnerd agent, protocol {client.PROTOCOL}, Python {platform.python_version()}",
    )
    options = parser.parse_args(arguments)
    if not options.config:
        parser.error("--config FILE is needed")
    try:
        settings = config.load(pathlib.Path(options.config))
        at = home.Home(settings.home)
        at.occupy()
    except (config.Invalid, home.Occupied, OSError) as error:
        print(f"runnerd agent: {error}", file=sys.stderr)
        return USAGE
    return _live(settings, at)


def _live(settings: config.Settings, at: home.Home) -> int:
    # What the agent makes is for its own user, unless said otherwise where it is made.
    os.umask(0o077)
    secrets = diagnostics.Secrets()
    secrets.add(settings.token)
    diagnostics.start_log(at.log, secrets)
    signals = notices.Signals()
    signals.install()
    sources: list[notices.Source] = [signals]
    if settings.notice_file:
        sources.append(notices.File(pathlib.Path(settings.notice_file)))
    cloud = metadata.detect() if settings.cloud is None else settings.cloud
    sources += preemption.sources(
        cloud, url=settings.metadata_url, lead=settings.preemption_notice, gpu=metadata.has_gpu()
    )
    processes.adopt_orphans()
    try:
        code = life.Life(settings, at, secrets, sources=sources, adopts=True).run()
    except Exception:
        logging.getLogger("agent").exception("the agent failed")
        code = FAILED
    if not life.power_off(settings.power_off):
        code = FAILED
    return code


if __name__ == "__main__":
    sys.exit(main())
