"""A daemon of a few lines on loopback that records what agents say, fake runners, and a way to live an agent's life."""

from __future__ import annotations

import contextlib
import dataclasses
import http.server
import json
import pathlib
import random
import threading
import time
import typing

from runnerd.agent import config, diagnostics, lifecycle, shutdown_notices, state_directory, supervisor

TOKEN = "rb1.attempt-1." + "b" * 64
SESSION = "rs1.attempt-1.nonce-of-the-test." + "a" * 64
JIT = "SmFzdC1hLXNlY3JldC1jb25maWd1cmF0aW9u"
FAST = supervisor.Pace(
    tick=0.02, grace=0.6, linger=0.4, linger_hook=2.0, leftovers=0.3, sample=0.2, finished=0.6, farewell=5.0
)


@dataclasses.dataclass(frozen=True)
class Asked:
    """One request."""

    name: str
    body: typing.Any
    bearer: str


#: A status and a body; None cuts the connection after the request was taken.
Answer = typing.Optional[tuple[int, typing.Any]]  # noqa: UP045


class Daemon:
    """Answers each request by its script: a list whose last entry repeats, or a function of the body."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.limits = {"unclaimed": 600.0, "unreachable": 1200.0, "max_job": 3600.0}
        self.gate: dict[str, typing.Any] = {"gpus": -1, "gpu": ""}
        self.script: dict[str, list[Answer] | typing.Callable[[typing.Any], Answer]] = {
            "hello": lambda body: (200, self.welcome()),
            "register": [(200, {"action": "wait", "after": 0.02})],
            "heartbeat": self._heartbeat,
            "job": [(200, {})],
            "failed": [(200, {})],
            "diagnostics": [(200, {})],
        }
        #: Said in heartbeats without a job, and with one.
        self.idle, self.busy = "continue", "continue"
        self._changed = threading.Condition()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers["Content-Length"]))
                name = self.path.rpartition("/")[2]
                is_json = self.headers["Content-Type"] == "application/json"
                answer = outer.answer(name, json.loads(data) if is_json else data, self.headers["Authorization"])
                if answer is None:
                    self.close_connection = True
                    return
                status, body = answer
                text = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", "/agent/v1/elsewhere")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *args: object) -> None:
                """Nothing: tests print what matters."""

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *args: object) -> None:
                """An agent that leaves cuts its open requests; that is no trouble."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def welcome(self) -> dict[str, typing.Any]:
        return {
            "session": SESSION,
            "instance": "acme-ci-1",
            "heartbeat": 0.05,
            "gate": self.gate,
            "limits": self.limits,
            "user": "",
        }

    def _heartbeat(self, body: typing.Any) -> Answer:
        action = self.busy if body["worker"] else ("end" if body["phase"] == "finished" else self.idle)
        return 200, {"action": action, "heartbeat": 0.05, "reason": "test"}

    def answer(self, name: str, body: typing.Any, authorization: str) -> Answer:
        with self._changed:
            self.asked.append(Asked(name, body, authorization.removeprefix("Bearer ")))
            self._changed.notify_all()
            script = self.script.get(name, [(404, {"error": "no such request"})])
            if not callable(script):
                return script.pop(0) if len(script) > 1 else script[0]
        return script(body)

    def said(self, name: str) -> list[typing.Any]:
        """The bodies of all requests of that name."""
        with self._changed:
            return [one.body for one in self.asked if one.name == name]

    def events(self) -> list[tuple[str, str]]:
        """Reports of jobs and failures, repetitions dropped."""
        found: list[tuple[str, str]] = []
        for one in list(self.asked):
            if one.name == "job":
                found.append((one.body["event"], one.body["result"]))
            elif one.name == "failed":
                found.append((one.body["stage"], one.body["detail"]))
        return list(dict.fromkeys(found))

    def wait(self, name: str, fits: typing.Callable[[typing.Any], bool] = lambda body: True) -> typing.Any:
        """The first request that fits, waited for."""
        deadline = time.monotonic() + 10
        with self._changed:
            while True:
                for one in self.asked:
                    if one.name == name and fits(one.body):
                        return one.body
                left = deadline - time.monotonic()
                assert left > 0, f"no such {name}: {self.asked}"
                self._changed.wait(left)

    def run(self, command: typing.Sequence[str], kind: str = "github", **environment: str) -> dict[str, typing.Any]:
        """Order a runner with the next registration."""
        secret = {"ACTIONS_RUNNER_INPUT_JITCONFIG": JIT} if kind == "github" else {"CI_SERVER_TOKEN": JIT}
        order = {
            "action": "run",
            "name": "acme-ci-1",
            "kind": kind,
            "command": list(command),
            "environment": {**secret, **environment},
        }
        self.script["register"] = [(200, order)]
        return order


@contextlib.contextmanager
def daemon() -> typing.Iterator[Daemon]:
    made = Daemon()
    try:
        yield made
    finally:
        made.close()


def write_config(directory: pathlib.Path, url: str, **more: typing.Any) -> pathlib.Path:
    path = directory / "agent.json"
    # In no cloud, wherever the tests run.
    path.write_text(json.dumps({"url": url, "token": TOKEN, "instance": "acme-ci-1", "cloud": "", **more}))
    return path


def script(path: pathlib.Path, text: str) -> str:
    """An executable shell script."""
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return str(path)


class Agent:
    """One agent, living in a thread of this process."""

    def __init__(
        self,
        directory: pathlib.Path,
        url: str,
        *,
        pace: supervisor.Pace = FAST,
        sources: typing.Sequence[shutdown_notices.Source] = (),
        **more: typing.Any,
    ) -> None:
        directory.mkdir(exist_ok=True)
        path = directory / "agent.json"
        if not path.exists():
            write_config(directory, url, **more)
        settings = config.load(path)
        self.home = state_directory.StateDirectory(directory)
        secrets = diagnostics.Secrets()
        secrets.add(settings.token)
        diagnostics.start_log(self.home.log, secrets)
        self.life = lifecycle.Lifecycle(settings, self.home, secrets, sources=sources, pace=pace, rng=random.Random(1))
        self.code: int | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> Agent:
        self._thread.start()
        return self

    def _run(self) -> None:
        self.code = self.life.run()

    def join(self) -> int:
        """Wait for the end of its life."""
        self._thread.join(20)
        diagnostics.stop_log()
        assert self.code is not None, "the agent does not come to its end"
        return self.code
