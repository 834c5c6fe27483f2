"""`python -m runnerd.simulator`: a GitHub and a GitLab on one address."""

from __future__ import annotations

import argparse
import asyncio
import json
import pathlib
import signal
import ssl
import sys
import tempfile
import time
from typing import Any

from runnerd.simulator import app, certificates, github, server, world


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m runnerd.simulator",
        description="A simulated GitHub and GitLab in one process. Nothing leaves this machine.",
    )
    made.add_argument("--listen", default="127.0.0.1:8460", metavar="HOST:PORT", help="port 0 takes a free one")
    made.add_argument("--tls", action="store_true", help="serve HTTPS with a certificate of its own CA")
    made.add_argument("--host-name", action="append", default=[], help="further name or address in the certificate")
    made.add_argument("--cert-dir", type=pathlib.Path, help="where ca.pem and keys are written (a new directory)")
    made.add_argument(
        "--repo",
        action="append",
        default=[],
        metavar="NAME[=DIR]",
        help="a repository on both forges, with the files of DIR in the workspace of its jobs",
    )
    made.add_argument("--owner", action="append", default=[], help="a GitHub organisation that exists")
    made.add_argument("--ghes-acquire", action="store_true", help="JobAvailable and acquirejobs, as enterprise servers")
    made.add_argument("--drop-labels", action="store_true", help="drop custom scale set labels, as GHES 3.18 to 3.20")
    made.add_argument("--no-limits", action="store_true", help="no rate limits and no cap on registrations")
    made.add_argument("--seed", type=int, default=0, help="seed of ids and chances")
    made.add_argument("--json", action="store_true", help="print one JSON line instead of text")
    return made


def parse_listen(text: str) -> tuple[str, int]:
    """HOST:PORT. Raises ValueError."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65_535:
        raise ValueError(f"--listen must be HOST:PORT, not {text!r}")
    return host.strip("[]"), int(port)


def github_options(arguments: argparse.Namespace) -> github.Options:
    options = github.Options(
        ghes_acquire=arguments.ghes_acquire,
        custom_labels=not arguments.drop_labels,
        owners=("acme", *arguments.owner),
    )
    if arguments.no_limits:
        options.rate_limit = options.installation_rate_limit = options.points_per_minute = None
        options.content_per_minute = options.concurrent = options.registrations = None
    return options


def make_world(arguments: argparse.Namespace, sender: server.Sender) -> world.World:
    """Return a world in real time, with the repositories of the command line. Raises ValueError."""
    shared = world.World(time.time, seed=arguments.seed, deliver=sender)
    for item in arguments.repo:
        name, _, directory = item.partition("=")
        if directory:
            path = pathlib.Path(directory).resolve()
            if not path.is_dir():
                raise ValueError(f"--repo {item}: {path} is not a directory")
            shared.directories[name] = str(path)
    return shared


async def serve(arguments: argparse.Namespace) -> int:
    sender = server.Sender()
    shared = make_world(arguments, sender)
    simulator = app.App(shared, github_half=github.Github(shared, github_options(arguments)))
    if arguments.no_limits:
        simulator.gitlab.lift_limits()
    for item in arguments.repo:
        name = item.partition("=")[0]
        shared.repository("gitlab", name)
        if name.count("/") == 1:
            simulator.github.tables.repository(name)
    host, port = parse_listen(arguments.listen)
    directory = arguments.cert_dir or pathlib.Path(tempfile.mkdtemp(prefix="runnerd-simulator-"))
    authority: pathlib.Path | None = None
    context: ssl.SSLContext | None = None
    if arguments.tls:
        names = list(dict.fromkeys([host, *arguments.host_name, "localhost", "127.0.0.1"]))
        authority, context = certificates.make(directory, [name for name in names if name not in ("0.0.0.0", "::")])
    directory.mkdir(parents=True, exist_ok=True)
    app_key = directory / "app.pem"
    certificates.write_private(app_key, simulator.github.auth.app_key_pem.encode())
    listening = server.Server(simulator, host=host, port=port, tls=context, sender=sender)
    url = await listening.start()
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    _tell(facts(simulator, url, app_key, authority), as_json=arguments.json)
    try:
        await stop.wait()
    finally:
        await listening.close()
    return 0


def facts(simulator: app.App, url: str, app_key: pathlib.Path, authority: pathlib.Path | None) -> dict[str, Any]:
    """The addresses and tokens that a user of the simulator needs."""
    tokens = {name: dict(half.default_tokens()) for name, half in simulator.halves.items()}
    tokens["github"].pop("app_private_key", None)
    tokens["github"]["app_key_file"] = str(app_key)
    return {
        "url": url,
        "github": f"{url}/api/v3",
        "gitlab": f"{url}/api/v4",
        "control": f"{url}/_sim/state",
        "tokens": tokens,
        "ca": str(authority) if authority else None,
    }


def _tell(known: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(known), flush=True)
        return
    print(f"simulator listening on {known['url']}  (the page of pull and merge requests)")
    print(f"  GitHub   {known['github']}   (organisation {known['url']}/acme)")
    print(f"  GitLab   {known['gitlab']}")
    print(f"  control  {known['control']}")
    for forge, tokens in known["tokens"].items():
        for name, value in tokens.items():
            print(f"  {forge} {name}: {value}")
    if known["ca"]:
        print(f"  CA certificate: {known['ca']}   (SSL_CERT_FILE, NODE_EXTRA_CA_CERTS)")
    sys.stdout.flush()


def main() -> int:
    made = parser()
    arguments = made.parse_args()
    try:
        parse_listen(arguments.listen)
        return asyncio.run(serve(arguments))
    except (ValueError, OSError) as error:
        made.exit(2, f"{made.prog}: {error}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
