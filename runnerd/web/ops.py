"""The ops listener: metrics, health, readiness and one page.  Reads only, and tells no secret.

*Healthy* means that this process lives and its loop turns: restart it when it is not.  *Ready* means that it can do
its work: the state takes writes, every forge has answered and some provider can be used.  Both say why not in words.
"""

from __future__ import annotations

import asyncio
import datetime

import jinja2
from aiohttp import web
from prometheus_client import exposition

from runnerd import errors, read_model
from runnerd.kit import clock, redaction
from runnerd.metrics import counters
from runnerd.views import status
from runnerd.web import wire

#: Seconds that the start may take before it counts as stuck: the first listings are waited for.
START_TIMEOUT = 300.0
#: Passes of the control loop that may be missed, and the least number of seconds that this is.
MISSED, LEAST = 6, 120.0
#: Seconds that a write of readiness may take, and for which its outcome stands.
PROBE_TIMEOUT, PROBE_FRESH = 5.0, 2.0
#: Lines of the audit trail on the page, and instances.
LINES, MOST = 40, 500

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_PAGES = jinja2.Environment(
    loader=jinja2.PackageLoader("runnerd.web"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


class Ops:
    """The application of the ops listener."""

    def __init__(self, served: read_model.Served, metrics: counters.Metrics, *, clock: clock.Clock) -> None:
        self._served = served
        self._metrics = metrics
        self._clock = clock
        self._opened_at = clock.now()
        self._probed: tuple[float, str] = (float("-inf"), "")
        self._probing = asyncio.Lock()
        self.gate = wire.Gate("ops", in_flight=64)
        self.app = web.Application(middlewares=[self.gate.middleware], client_max_size=0)
        self.app.add_routes(
            [
                web.get("/metrics", self._tell_metrics),
                web.get("/healthz", self._tell_health),
                web.get("/readyz", self._tell_readiness),
                web.get("/api/v1/status", self._tell_status),
                web.get("/", self._page),
            ]
        )

    def release(self) -> None:
        """Nobody waits here."""

    async def close(self) -> None:
        """Nothing goes on here."""

    # -- metrics -----------------------------------------------------------------------------------------------

    async def _tell_metrics(self, request: web.Request) -> web.Response:
        encode, kind = exposition.choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(self._metrics.registry), headers={"Content-Type": kind})

    # -- health ------------------------------------------------------------------------------------------------

    def health(self) -> list[str]:
        """Why this process should be restarted; empty when it should not."""
        now = self._clock.now()
        reading = self._reading
        if reading is None:
            age = now - self._opened_at
            return [] if age < START_TIMEOUT else [f"the start has not come to its end for {age:.0f} s"]
        if self._served.progress.stopping:
            return []
        limit = max(LEAST, MISSED * reading.state.config.reconcile.interval)
        age = now - max(reading.loop.last_pass_at, self._served.progress.started_at)
        return [f"the control loop has not finished a pass for {age:.0f} s"] if age > limit else []

    @property
    def _reading(self) -> read_model.ReadModel | None:
        """What can be shown of the daemon; None until its start has come to its end."""
        return self._served.reading if self._served.progress.started_at > 0 else None

    async def _tell_health(self, request: web.Request) -> web.Response:
        reasons = self.health()
        state = "stopping" if self._served.progress.stopping else "running" if self._reading is not None else "starting"
        return wire.answer({"ok": not reasons, "state": state, "reasons": reasons}, status=503 if reasons else 200)

    # -- readiness ---------------------------------------------------------------------------------------------

    async def readiness(self) -> tuple[list[str], list[str]]:
        """Why the daemon cannot do its work, and what is amiss although it can."""
        reading = self._reading
        if reading is None:
            return ["the daemon is starting"], []
        if self._served.progress.stopping:
            return ["the daemon is stopping"], []
        reasons = self.health()
        unwritable = await self._unwritable(reading.history)
        if unwritable:
            reasons.append(f"the state cannot be written: {unwritable}")
        amiss: list[str] = []
        for name in reading.state.forges:
            self._judge_forge(reading, name, reasons, amiss)
        providers = reading.state.providers.values()
        problems = [f"provider {one.name}: {one.problem}" for one in providers if one.problem]
        usable = any(not one.problem and not one.retired for one in providers)
        (amiss if usable else reasons).extend(problems if problems or usable else ["no provider can be used"])
        if reading.state.hold:
            amiss.append(f"nothing is ended for its age: {reading.clock_guard.problem}")
        if not self._served.progress.reload_ok:
            amiss.append("the last reload was refused; the old configuration stays")
        return [redaction.redact(one) for one in reasons], [redaction.redact(one) for one in amiss]

    def _judge_forge(self, reading: read_model.ReadModel, name: str, reasons: list[str], amiss: list[str]) -> None:
        forge = reading.state.forges[name]
        queues = [spec.queue for spec in reading.state.specs if spec.queue.forge == name]
        problems = list(dict.fromkeys(health.problem for queue in queues if not (health := forge.health(queue)).ok))
        # Demand survives a restart in the cursor, so only a word from after the start proves anything.
        told = any(forge.demand(queue).as_of >= self._served.progress.started_at for queue in queues)
        if queues and not told and forge.server_date() is None:
            words = "; ".join(problems) or "it has not answered yet"
            reasons.append(f"forge {name} has not been reached since the start: {words}")
        else:
            amiss.extend(f"forge {name}: {words}" for words in problems)

    async def _unwritable(self, history: read_model.History) -> str:
        """Why the state takes no write; asked at most every few seconds, because each asking is a write."""
        async with self._probing:
            at, words = self._probed
            now = self._clock.now()
            if 0 <= now - at < PROBE_FRESH:
                return words
            try:
                async with asyncio.timeout(PROBE_TIMEOUT):
                    await history.probe()
                words = ""
            except TimeoutError:
                words = f"a write takes longer than {PROBE_TIMEOUT:g} s"
            except errors.StoreError as error:
                words = str(error)
            self._probed = (self._clock.now(), words)
            return words

    async def _tell_readiness(self, request: web.Request) -> web.Response:
        reasons, amiss = await self.readiness()
        body = {"ready": not reasons, "reasons": reasons, "degraded": amiss}
        return wire.answer(body, status=503 if reasons else 200)

    # -- people ------------------------------------------------------------------------------------------------

    async def _tell_status(self, request: web.Request) -> web.Response:
        return wire.answer(wire.redacted(status.status(self._ready())))

    async def _page(self, request: web.Request) -> web.Response:
        if self._reading is None:
            text = _PAGES.get_template("starting.html.j2").render()
        else:
            text = await self._render(self._reading)
        headers = {"Content-Security-Policy": _POLICY, "Cache-Control": "no-store"}
        return web.Response(text=text, content_type="text/html", headers=headers)

    async def _render(self, reading: read_model.ReadModel) -> str:
        reasons, amiss = await self.readiness()
        trouble = ""
        try:
            lines = (await reading.history.trail(limit=LINES))[::-1]
        except errors.StoreError as error:
            lines, trouble = [], str(error)
        instances = sorted(
            (row for row in reading.state.rows.instances.values() if row.live),
            key=lambda row: (row.pool, row.created_at),
        )
        page = _PAGES.get_template("page.html.j2").render(
            status=status.status(reading),
            reasons=reasons,
            amiss=amiss,
            instances=instances[:MOST],
            more=max(0, len(instances) - MOST),
            events=[event for _, event in lines],
            trouble=trouble,
            now=self._clock.now(),
            ago=_ago,
            clock_time=_clock_time,
        )
        return redaction.redact(page)

    def _ready(self) -> read_model.ReadModel:
        if self._reading is None:
            raise wire.Busy("the daemon is starting; ask again")
        return self._reading


def _ago(seconds: float) -> str:
    """A span for people: 8 s, 3 min, 2 h, 4 d."""
    for size, unit in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def _clock_time(at: float) -> str:
    return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")
