"""The ops listener: metrics, health, readiness and one page.  It is read-only and shows no secret.

*Healthy* means that the control loop makes its passes; restart a process that is not.  *Ready* means that the daemon
can do its work: the state takes writes, every forge has answered and some provider is usable.  Both give reasons.
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

#: Seconds that the start may take before it counts as stuck: it waits for the first listings.
START_TIMEOUT_S = 300.0
#: Passes of the control loop that may be missed, and the least number of seconds for that.
MISSED, LEAST_S = 6, 120.0
#: Seconds that the test write may take, and for which its outcome is reused.
PROBE_TIMEOUT_S, PROBE_FRESH_S = 5.0, 2.0
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
                web.get("/metrics", self._serve_metrics),
                web.get("/healthz", self._serve_health),
                web.get("/readyz", self._serve_readiness),
                web.get("/api/v1/status", self._serve_status),
                web.get("/", self._page),
            ]
        )

    def release(self) -> None:
        """Do nothing: no client of this listener waits."""

    async def close(self) -> None:
        """Do nothing: there are no background tasks."""

    # -- metrics -----------------------------------------------------------------------------------------------

    async def _serve_metrics(self, request: web.Request) -> web.Response:
        encode, kind = exposition.choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(self._metrics.registry), headers={"Content-Type": kind})

    # -- health ------------------------------------------------------------------------------------------------

    def health(self) -> list[str]:
        """Return the reasons to restart this process; none when it is healthy."""
        now = self._clock.now()
        reading = self._reading
        if reading is None:
            age = now - self._opened_at
            return [] if age < START_TIMEOUT_S else [f"the start has not finished after {age:.0f} s"]
        if self._served.progress.stopping:
            return []
        limit = max(LEAST_S, MISSED * reading.state.config.reconcile.interval)
        age = now - max(reading.loop.last_pass_at, self._served.progress.started_at)
        return [f"the control loop has not finished a pass for {age:.0f} s"] if age > limit else []

    @property
    def _reading(self) -> read_model.ReadModel | None:
        """The daemon's read model; None until its start has finished."""
        return self._served.reading if self._served.progress.started_at > 0 else None

    async def _serve_health(self, request: web.Request) -> web.Response:
        reasons = self.health()
        state = "stopping" if self._served.progress.stopping else "running" if self._reading is not None else "starting"
        return wire.answer({"ok": not reasons, "state": state, "reasons": reasons}, status=503 if reasons else 200)

    # -- readiness ---------------------------------------------------------------------------------------------

    async def readiness(self) -> tuple[list[str], list[str]]:
        """Return the reasons why the daemon cannot do its work, and what is degraded although it can."""
        reading = self._reading
        if reading is None:
            return ["the daemon is starting"], []
        if self._served.progress.stopping:
            return ["the daemon is stopping"], []
        reasons = self.health()
        unwritable = await self._unwritable(reading.history)
        if unwritable:
            reasons.append(f"the state cannot be written: {unwritable}")
        degraded: list[str] = []
        for name in reading.state.forges:
            self._check_forge(reading, name, reasons, degraded)
        providers = reading.state.providers.values()
        problems = [f"provider {one.name}: {one.problem}" for one in providers if one.problem]
        usable = any(not one.problem and not one.retired for one in providers)
        (degraded if usable else reasons).extend(problems if problems or usable else ["no provider is usable"])
        if reading.state.hold:
            degraded.append(f"deadlines are held: {reading.clock_guard.problem}")
        if not self._served.progress.reload_ok:
            degraded.append("the last reload was refused; the old configuration stays in force")
        return [redaction.redact(one) for one in reasons], [redaction.redact(one) for one in degraded]

    def _check_forge(self, reading: read_model.ReadModel, name: str, reasons: list[str], degraded: list[str]) -> None:
        forge = reading.state.forges[name]
        queues = [spec.queue for spec in reading.state.specs if spec.queue.forge == name]
        problems = list(dict.fromkeys(health.problem for queue in queues if not (health := forge.health(queue)).ok))
        # Demand survives a restart in the cursor, so only a report from after the start proves anything.
        reported = any(forge.demand(queue).as_of >= self._served.progress.started_at for queue in queues)
        if queues and not reported and forge.server_date() is None:
            words = "; ".join(problems) or "it has not answered yet"
            reasons.append(f"forge {name} has not been reached since the start: {words}")
        else:
            degraded.extend(f"forge {name}: {words}" for words in problems)

    async def _unwritable(self, history: read_model.History) -> str:
        """Return the reason why the state takes no write; at most every few seconds, because each test is a write."""
        async with self._probing:
            at, words = self._probed
            now = self._clock.now()
            if 0 <= now - at < PROBE_FRESH_S:
                return words
            try:
                async with asyncio.timeout(PROBE_TIMEOUT_S):
                    await history.probe()
                words = ""
            except TimeoutError:
                words = f"a write takes longer than {PROBE_TIMEOUT_S:g} s"
            except errors.StoreError as error:
                words = str(error)
            self._probed = (self._clock.now(), words)
            return words

    async def _serve_readiness(self, request: web.Request) -> web.Response:
        reasons, degraded = await self.readiness()
        body = {"ready": not reasons, "reasons": reasons, "degraded": degraded}
        return wire.answer(body, status=503 if reasons else 200)

    # -- people ------------------------------------------------------------------------------------------------

    async def _serve_status(self, request: web.Request) -> web.Response:
        return wire.answer(wire.redacted(status.status(self._ready())))

    async def _page(self, request: web.Request) -> web.Response:
        if self._reading is None:
            text = _PAGES.get_template("starting.html.j2").render()
        else:
            text = await self._render(self._reading)
        headers = {"Content-Security-Policy": _POLICY, "Cache-Control": "no-store"}
        return web.Response(text=text, content_type="text/html", headers=headers)

    async def _render(self, reading: read_model.ReadModel) -> str:
        reasons, degraded = await self.readiness()
        problem = ""
        try:
            lines = (await reading.history.trail(limit=LINES))[::-1]
        except errors.StoreError as error:
            lines, problem = [], str(error)
        instances = sorted(
            (row for row in reading.state.rows.instances.values() if row.live),
            key=lambda row: (row.pool, row.created_at),
        )
        page = _PAGES.get_template("page.html.j2").render(
            status=status.status(reading),
            reasons=reasons,
            degraded=degraded,
            instances=instances[:MOST],
            more=max(0, len(instances) - MOST),
            events=[event for _, event in lines],
            problem=problem,
            now=self._clock.now(),
            ago=_ago,
            clock_time=_clock_time,
        )
        return redaction.redact(page)

    def _ready(self) -> read_model.ReadModel:
        if self._reading is None:
            raise wire.Busy("the daemon is starting; retry later")
        return self._reading


def _ago(seconds: float) -> str:
    """Return a duration for people: 8 s, 3 min, 2 h, 4 d."""
    for size, unit in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def _clock_time(at: float) -> str:
    return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")
