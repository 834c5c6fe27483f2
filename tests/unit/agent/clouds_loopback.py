"""The metadata services of the three clouds on loopback, as far as notices need them.

They refuse what the real ones refuse.  Each can be made to fail on the wire in the ways of :data:`TROUBLES`, and can
vanish and come back at its address.
"""

from __future__ import annotations

import contextlib
import email.utils
import http.server
import json
import socket
import threading
import time
import typing
import urllib.parse

#: What a service can be made to do instead of answering.
TROUBLES = ("hang", "drip", "close", "noise", "redirect", "huge", "cut", "html", "deep", "error")
Answer = typing.Tuple[int, dict[str, str], str]  # noqa: UP006


class Service:
    """What the three have in common: a server, its troubles, and what was asked."""

    def __init__(self) -> None:
        self.trouble = ""
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self.changed = threading.Condition()
        #: Added to the clock of the ``Date`` of the answers, and of the times in them.
        self.clock = 0.0
        self._open = True
        self._port = 0
        self._server: http.server.ThreadingHTTPServer | None = None
        self.start()
        self.url = f"http://127.0.0.1:{self._port}"

    # -- for the tests -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.serve(self)

            do_PUT = do_POST = do_GET

            def log_message(self, *args: object) -> None:
                """Nothing: tests print what matters."""

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, *args: object) -> None:
                """A client that does not wait any longer is no trouble."""

        self._server = Server(("127.0.0.1", self._port), Handler)
        self._port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def vanish(self) -> None:
        """Refuse connections."""
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()
        self._server = None

    def close(self) -> None:
        with self.changed:
            self._open = False
            self.changed.notify_all()
        if self._server is not None:
            self.vanish()

    def change(self, **more: typing.Any) -> None:
        with self.changed:
            for name, value in more.items():
                setattr(self, name, value)
            self.changed.notify_all()

    def paths(self) -> list[str]:
        with self.changed:
            return [path for _, path, _ in self.asked]

    def wait(self, count: int) -> None:
        """Until that many requests have come."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.asked) >= count, 10), self.asked

    # -- the server --------------------------------------------------------------------------------------------------

    def serve(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        with self.changed:
            headers = {name.lower(): value for name, value in handler.headers.items()}
            self.asked.append((handler.command, handler.path, headers))
            self.changed.notify_all()
            trouble = self.trouble
        handler.close_connection = True
        if trouble:
            self._fail(handler, trouble)
            return
        parts = urllib.parse.urlsplit(handler.path)
        status, more, text = self.answer(
            handler.command, parts.path, dict(urllib.parse.parse_qsl(parts.query)), headers
        )
        self._send(handler, status, more, text)

    def answer(self, method: str, path: str, query: dict[str, str], headers: dict[str, str]) -> Answer:
        raise NotImplementedError

    def date(self, after: float = 0.0) -> float:
        """The service's own time."""
        return time.time() + self.clock + after

    def _send(self, handler: http.server.BaseHTTPRequestHandler, status: int, more: dict[str, str], text: str) -> None:
        data = text.encode()
        handler.send_response_only(status)
        for name, value in {"Date": email.utils.formatdate(self.date(), usegmt=True), **more}.items():
            if value:
                handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    def _fail(self, handler: http.server.BaseHTTPRequestHandler, trouble: str) -> None:
        flavour = {"Metadata-Flavor": "Google"}
        if trouble == "hang":
            with self.changed:
                self.changed.wait_for(lambda: self.trouble != "hang" or not self._open, 20)
        elif trouble == "drip":
            while self.trouble == "drip" and self._open:
                handler.wfile.write(b"H")
                handler.wfile.flush()
                time.sleep(0.01)
        elif trouble == "close":
            with contextlib.suppress(OSError):
                handler.connection.shutdown(socket.SHUT_RDWR)
        elif trouble == "noise":
            handler.wfile.write(bytes(range(256)) * 8)
        elif trouble == "redirect":
            self._send(handler, 302, {"Location": self.url + "/elsewhere", **flavour}, "")
        elif trouble == "huge":
            self._send(handler, 200, flavour, "TRUE " * 200_000)
        elif trouble == "cut":
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nMetadata-Flavor: Google\r\nContent-Length: 99\r\n\r\nTRUE")
        elif trouble == "html":
            self._send(handler, 200, flavour, "<html>Please log in to this network</html>")
        elif trouble == "deep":
            self._send(handler, 200, flavour, "[" * 60_000)
        else:
            self._send(handler, 503, flavour, "")


class Ec2(Service):
    """IMDSv2 alone: no answer without a token of its own."""

    def __init__(self) -> None:
        self.action = ""
        self.rebalance = False
        self.tokens: set[str] = set()
        super().__init__()

    def interrupt(self, left: float, action: str = "terminate") -> None:
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.date(left)))
        self.change(action=json.dumps({"action": action, "time": moment}))

    def answer(self, method: str, path: str, query: dict[str, str], headers: dict[str, str]) -> Answer:
        if "x-forwarded-for" in headers:
            return 403, {}, ""
        if path == "/latest/api/token":
            ttl = headers.get("x-aws-ec2-metadata-token-ttl-seconds", "")
            if method != "PUT" or not ttl.isdigit() or not 1 <= int(ttl) <= 21600:
                return 400, {}, ""
            token = f"AQAEA{len(self.tokens)}-{time.monotonic_ns()}=="
            self.tokens.add(token)
            return 200, {}, token
        if headers.get("x-aws-ec2-metadata-token") not in self.tokens:
            return 401, {}, ""
        if method != "GET":
            return 405, {}, ""
        if path == "/latest/meta-data/spot/instance-action" and self.action:
            return 200, {}, self.action
        if path == "/latest/meta-data/events/recommendations/rebalance" and self.rebalance:
            return 200, {}, '{"noticeTime": "2026-11-25T10:00:00Z"}'
        return 404, {}, "<html>404 - Not Found</html>"


class Gce(Service):
    """Values with tags; a request that waits is held until the value has another tag, or for its time."""

    def __init__(self) -> None:
        self.preempted, self.event = "FALSE", "NONE"
        self.holds, self.flavour = True, "Google"
        super().__init__()

    def answer(self, method: str, path: str, query: dict[str, str], headers: dict[str, str]) -> Answer:
        if headers.get("metadata-flavor") != "Google" or "x-forwarded-for" in headers:
            return 403, {}, ""
        key = path.replace("/computeMetadata/v1/instance/", "")
        if key not in ("preempted", "maintenance-event"):
            return 404, {"Metadata-Flavor": "Google"}, ""

        def value() -> str:
            return self.preempted if key == "preempted" else self.event

        def tag() -> str:
            return value().encode().hex()[:16]

        with self.changed:
            if self.holds and query.get("wait_for_change") == "true":
                known = query.get("last_etag")
                self.changed.wait_for(
                    lambda: tag() != known or not self._open or self.trouble != "", float(query["timeout_sec"])
                )
            return 200, {"Metadata-Flavor": self.flavour, "ETag": tag()}, value() + "\n"


class Arm(Service):
    """Scheduled events of a machine and its neighbours."""

    def __init__(self) -> None:
        self.name = "runnerd-a1"
        self.events: list[typing.Any] = []
        super().__init__()

    def schedule(self, kind: str, left: float | None, *resources: str) -> None:
        """``left`` seconds before it may happen; None once it has started."""
        event = {
            "EventId": f"id-{len(self.events)}",
            "EventType": kind,
            "ResourceType": "VirtualMachine",
            "Resources": list(resources or (self.name,)),
            "EventStatus": "Started" if left is None else "Scheduled",
            "NotBefore": "" if left is None else email.utils.formatdate(self.date(left), usegmt=True),
            "Description": "",
            "EventSource": "Platform",
            "DurationInSeconds": -1,
        }
        self.change(events=[*self.events, event])

    def answer(self, method: str, path: str, query: dict[str, str], headers: dict[str, str]) -> Answer:
        if headers.get("metadata") != "true" or "x-forwarded-for" in headers or "api-version" not in query:
            return 400, {}, '{"error": "Bad request"}'
        if path == "/metadata/instance/compute/name" and query.get("format") == "text":
            return 200, {}, self.name
        if path != "/metadata/scheduledevents":
            return 404, {}, ""
        if query["api-version"] != "2020-07-01":
            return 400, {}, '{"error": "Bad request. api-version is invalid"}'
        return 200, {}, json.dumps({"DocumentIncarnation": len(self.events), "Events": self.events})
