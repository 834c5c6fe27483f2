"""A loopback server that records what it is asked, and a way to run a ``cml`` command against it."""

from __future__ import annotations

import contextlib
import dataclasses
import http.server
import io
import json
import pathlib
import ssl
import threading
import typing

from runnerd.agent import cml
from runnerd.agent.cml import context as contexts

SHA = "8d8d36e94cbb508aba7b35971e473ad63c30ef8f"
MARK = f'![](https://cml.dev/watermark.png#{SHA} "CML watermark")'
PNG = b"\x89PNG\r\n\x1a\n" + bytes(62)


@dataclasses.dataclass(frozen=True)
class Asked:
    """One request, as it came over the wire."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def line(self) -> str:
        return f"{self.method} {self.path}"

    def json(self) -> typing.Any:
        return json.loads(self.body)


#: Status, body (text, or anything that becomes JSON), headers. None drops the connection without an answer.
Reply = tuple[int, object, dict[str, str]] | None


def reply(status: int = 200, body: object = "", **headers: str) -> Reply:
    return status, body, {name.replace("_", "-"): value for name, value in headers.items()}


class Server:
    """Answers by the first of its rules that fits: (method, path prefix) -> replies, the last one repeated."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.rules: list[tuple[str, str, list[Reply]]] = []
        self._scheme = "http"
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _any(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                asked = Asked(self.command, self.path, headers, body)
                outer.asked.append(asked)
                self.close_connection = True
                found = outer._answer(asked)
                if found is None:
                    return
                status, content, extra = found
                data = (content if isinstance(content, str) else json.dumps(content)).encode()
                self.send_response(status)
                for name, value in {"content-length": str(len(data)), "connection": "close", **extra}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _any

            def log_message(self, *_: object) -> None:
                pass

        class Listener(http.server.ThreadingHTTPServer):
            def handle_error(self, *_: object) -> None:
                """A client that hangs up, or does not trust us, is what some tests are about."""

        self._http = Listener(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self._http.server_address[1]}"

    def secure(self, context: ssl.SSLContext) -> None:
        """Speak TLS from now on."""
        self._scheme = "https"
        self._http.socket = context.wrap_socket(self._http.socket, server_side=True)

    @property
    def lines(self) -> list[str]:
        return [asked.line for asked in self.asked]

    def on(self, method: str, prefix: str, *replies: Reply) -> None:
        self.rules.append((method, prefix, list(replies)))

    def _answer(self, asked: Asked) -> Reply:
        for method, prefix, replies in self.rules:
            if asked.method == method and asked.path.startswith(prefix):
                return replies.pop(0) if len(replies) > 1 else replies[0]
        return reply(404, {"message": "Not Found"})

    @contextlib.contextmanager
    def running(self) -> typing.Iterator[Server]:
        self._thread.start()
        try:
            yield self
        finally:
            self._http.shutdown()
            self._thread.join(5)
            self._http.server_close()


@dataclasses.dataclass
class Bench:
    """A directory, an environment and two servers; runs commands in them."""

    directory: pathlib.Path
    forge: Server
    store: Server
    env: dict[str, str]
    uuids: list[str] = dataclasses.field(default_factory=list)
    slept: list[float] = dataclasses.field(default_factory=list)
    clock: float = 1_000_000.0
    out: str = ""
    err: str = ""
    #: Called before each sleep with the number of sleeps so far.
    on_sleep: typing.Callable[[int], None] | None = None

    @property
    def repo(self) -> str:
        return f"{self.forge.url}/acme/nst"

    def write(self, name: str, content: str | bytes) -> pathlib.Path:
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def on_github(self, **more: str) -> None:
        self.env.update(
            CI="true",
            GITHUB_ACTIONS="true",
            GITHUB_SERVER_URL=self.forge.url,
            GITHUB_REPOSITORY="acme/nst",
            GITHUB_ACTOR="octocat",
            GITHUB_SHA=SHA,
            GITHUB_WORKFLOW="train",
            GITHUB_RUN_ID="900",
            GITHUB_EVENT_NAME="push",
            REPO_TOKEN="tok123",
            CML_REPO=self.repo,
        )
        self.env.update(more)
        self.forge.on("GET", "/api/v3/users/", reply(200, {"login": "octocat", "id": 1, "name": None}))

    def in_pull_request(self, number: int = 5) -> None:
        event = self.write("event.json", json.dumps({"pull_request": {"number": number, "head": {"sha": SHA}}}))
        self.env.update(GITHUB_EVENT_NAME="pull_request", GITHUB_EVENT_PATH=str(event), GITHUB_SHA="f" * 40)

    def on_gitlab(self, **more: str) -> None:
        self.env.update(
            CI="true",
            CI_SERVER_URL=self.forge.url,
            CI_PROJECT_URL=self.repo,
            CI_COMMIT_SHA=SHA,
            CI_PIPELINE_ID="77",
            CI_JOB_ID="701",
            REPO_TOKEN="gltok",
            CML_REPO=self.repo,
        )
        self.env.update(more)
        self.forge.on("GET", "/api/v4/version", reply(200, {"version": "18.6.0"}))

    def run(self, *argv: str) -> int:
        """Run a command line whose first word is the invoked name; output is in ``out`` and ``err`` afterwards."""
        stdout, stderr = io.StringIO(), io.StringIO()

        def sleep(seconds: float) -> None:
            assert len(self.slept) < 500, "waits without end"
            if self.on_sleep is not None:
                self.on_sleep(len(self.slept))
            self.slept.append(seconds)
            self.clock += seconds

        context = contexts.Context(
            env=dict(self.env),
            directory=self.directory,
            stdout=stdout,
            stderr=stderr,
            sleep=sleep,
            now=lambda: self.clock,
            new_uuid=lambda: self.uuids.pop(0) if self.uuids else "00000000-0000-4000-8000-000000000000",
        )
        code = cml.main(list(argv), context)
        self.out, self.err = stdout.getvalue(), stderr.getvalue()
        return code


@contextlib.contextmanager
def bench(directory: pathlib.Path) -> typing.Iterator[Bench]:
    with Server().running() as forge, Server().running() as store:
        yield Bench(directory, forge, store, {"PATH": "/usr/bin:/bin", "HOME": str(directory)})
