"""The command line: ``agent.pyz --config agent.json`` runs the agent, ``agent.pyz cml ...`` is for jobs."""

from __future__ import annotations

import argparse
import logging
import os
import pathlib
import platform
import sys
import typing

from runnerd.agent import (
    client,
    cloud_notices,
    cml,
    config,
    diagnostics,
    lifecycle,
    metadata,
    processes,
    shutdown_notices,
    state_directory,
)

#: Exit codes: 0 success, 1 no session or a failure, 2 usage or configuration error.
OK, FAILED, USAGE = 0, 1, 2


def main(argv: typing.Sequence[str] | None = None) -> int:
    """Run the agent, or ``cml``, and return the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["cml"]:
        return cml.main(["cml", *arguments[1:]])
    parser = argparse.ArgumentParser(prog="agent.pyz", description="The runnerd agent of an instance.")
    parser.add_argument("--config", metavar="FILE", help="agent.json, as written by the boot script")
    parser.add_argument(
        "--version",
        action="version",
        version=f"runnerd agent, protocol {client.PROTOCOL}, Python {platform.python_version()}",
    )
    options = parser.parse_args(arguments)
    if not options.config:
        parser.error("--config FILE is required")
    try:
        settings = config.load(pathlib.Path(options.config))
        at = state_directory.StateDirectory(settings.home)
        at.occupy()
    except (config.Invalid, state_directory.Occupied, OSError) as error:
        print(f"runnerd agent: {error}", file=sys.stderr)
        return USAGE
    return _run(settings, at)


def _run(settings: config.Settings, at: state_directory.StateDirectory) -> int:
    # Files that the agent creates are readable by its own user only, unless their mode is set explicitly.
    os.umask(0o077)
    secrets = diagnostics.Secrets()
    secrets.add(settings.token)
    diagnostics.start_log(at.log, secrets)
    signals = shutdown_notices.Signals()
    signals.install()
    sources: list[shutdown_notices.Source] = [signals]
    if settings.notice_file:
        sources.append(shutdown_notices.File(pathlib.Path(settings.notice_file)))
    cloud = metadata.detect() if settings.cloud is None else settings.cloud
    sources += cloud_notices.sources(
        cloud, url=settings.metadata_url, lead=settings.preemption_notice, gpu=metadata.has_gpu()
    )
    processes.adopt_orphans()
    try:
        code = lifecycle.Lifecycle(settings, at, secrets, sources=sources, adopts=True).run()
    except Exception:
        logging.getLogger("agent").exception("the agent failed")
        code = FAILED
    if not lifecycle.power_off(settings.power_off):
        code = FAILED
    return code


if __name__ == "__main__":
    sys.exit(main())
