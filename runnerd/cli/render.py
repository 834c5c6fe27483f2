"""Documents as text: coloured tables on a terminal, plain untruncated columns elsewhere."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import click

from runnerd.kit import display

if TYPE_CHECKING:
    from runnerd.admin import documents as answers
    from runnerd.lifecycle import sweep_documents
    from runnerd.views import documents

Document = TypeVar("Document")

#: Colours of values in tables, on a terminal only.
_STYLES = {
    "ok": "green", "open": "green", "success": "green", "busy": "green", "running": "green", "registered": "green",
    "warning": "yellow", "closed": "yellow", "queued": "yellow", "drained": "yellow", "draining": "yellow",
    "unknown": "yellow", "error": "red", "failed": "red", "failure": "red", "no": "red",
}  # fmt: skip


def document(data: Any) -> None:
    """Print a document as JSON."""
    indent = 2 if sys.stdout.isatty() else None
    click.echo(json.dumps(data, indent=indent, default=str))


def show(data: Document, as_json: bool, text: Callable[[Document], None]) -> None:
    """Print a document as JSON, or as text."""
    if as_json:
        document(data)
    else:
        text(data)


def say(data: answers.Message) -> None:
    """Print the message that answers a command."""
    click.echo(data["message"])


def line(data: Any) -> None:
    """Print a document as one line of JSON."""
    click.echo(json.dumps(data, default=str))


def table(heads: Sequence[str], rows: Sequence[Sequence[Any]], *, empty: str = "none") -> None:
    """Print a table; ``empty`` is printed when there are no rows."""
    cells = [["" if cell is None else str(cell) for cell in row] for row in rows]
    if not cells:
        click.echo(empty)
        return
    if sys.stdout.isatty():
        _rich(heads, cells)
        return
    # Lines are stripped, so that they have no trailing blanks.
    lines = [[head.upper() for head in heads], *cells]
    widths = [max(len(each[column]) for each in lines) for column in range(len(heads))]
    for each in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(each, widths, strict=True)).rstrip())


def _rich(heads: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    from rich import box, console, table, text

    made = table.Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for head in heads:
        made.add_column(head, overflow="fold")
    for each in cells:
        made.add_row(*(text.Text(cell, style=_STYLES.get(cell, "")) for cell in each))
    console.Console().print(made)


def ago(at: float, now: float) -> str:
    """Return the time since ``at``; empty for never."""
    return display.span(now - at) if at else ""


def clock(at: float) -> str:
    """Return a time in UTC as text; empty for never."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S") if at else ""


# -- documents -----------------------------------------------------------------------------------------------------


def status(data: documents.SocketStatus) -> None:
    now = data["now"]
    up = display.span(now - data["started_at"])
    click.echo(f"controller {data['controller']}: runnerd {data['version']}, process {data['pid']}, up {up}")
    jobs = ", ".join(f"{count} {state}" for state, count in data["jobs"].items())
    live = ", ".join(f"{count} {state}" for state, count in data["instances"].items()) or "none"
    click.echo(f"jobs: {jobs}\ninstances: {live}")
    if data["stopping"]:
        click.echo("the daemon is stopping and takes no new work")
    if not data["reload_ok"]:
        click.echo("the last reload failed; the previous configuration is in force")
    if data["deadlines_held"]:
        click.echo("the clocks disagree: no instance is ended for its age")
    if data["reconcile"]["failures"]:
        click.echo(f"failed passes and actions: {data['reconcile']['failures']}")
    click.echo()
    pools({"pools": data["pools"], "retired": []})
    click.echo()
    rows = [
        [each["name"], queue["queue"], queue["waiting"], queue["running"], "ok" if queue["ok"] else "error",
         queue["problem"] or ("" if queue["known"] else "demand unknown: no recent report")]
        for each in data["forges"] for queue in each["queues"]
    ]  # fmt: skip
    table(["forge", "queue", "waiting", "running", "health", "problem"], rows, empty="no queues")
    click.echo()
    rows = [
        [each["name"], each["type"], _of(each["instances"], each["max_instances"]), ago(each["listed_at"], now),
         "error" if each["problem"] else "ok", each["problem"] or ("retired" if each["retired"] else "")]
        for each in data["providers"]
    ]  # fmt: skip
    table(["provider", "type", "instances", "listed", "health", "problem"], rows, empty="no providers")
    if data["budgets"]:
        click.echo()
        rows = [
            [f"{each['level']} {each['name']}".strip(), each["window"], display.dollars(each["committed"]),
             display.dollars(each["limit"]), display.dollars(each["left"])]
            for each in data["budgets"]
        ]  # fmt: skip
        table(["budget", "window", "spent or committed", "limit", "left"], rows)
    if data["alarms"]:
        click.echo()
        rows = [
            [f"{each['subject']} {each['id']}", each["reason"], ago(each["since"], now), each["count"], each["detail"]]
            for each in data["alarms"]
        ]
        table(["alarm", "reason", "for", "times", "detail"], rows)


def _of(count: int, most: int | None) -> str:
    return f"{count}" if most is None else f"{count} of {most}"


def jobs(data: documents.Jobs) -> None:
    rows = [
        [each["id"], each["conclusion"] or each["state"], each["pool"], each["repo"], each["name"],
         display.span(each["wait_seconds"]), display.span(each["run_seconds"]) if each["started_at"] else "",
         each["instance"]]
        for each in data["jobs"]
    ]  # fmt: skip
    table(["job", "state", "pool", "repo", "name", "waited", "ran", "instance"], rows, empty="no jobs")
    _more(data)


def instances(data: documents.Instances) -> None:
    now = data["now"]
    rows = [
        [each["id"], each["state"], ago(each["since"], now), each["offer"] or each["provider"], each["image"],
         _price(each), display.dollars(each["dollars"]), each["job"].rpartition("|")[2] or each["repo"],
         _note(each, now)]
        for each in data["instances"]
    ]  # fmt: skip
    heads = ["instance", "state", "for", "offer", "image", "price", "cost", "job", "note"]
    table(heads, rows, empty="no instances")
    _more(data)


def _note(each: documents.Instance, now: float) -> str:
    if each["hold_until"]:
        return f"held for {display.span(each['hold_until'] - now)}"
    note = ": ".join(part for part in (each["reason"], each["detail"]) if part)
    # The provider's reason is shown where it adds to the reason and its detail.
    end = "" if each["end"] in ("ended-by-us", each["reason"]) else each["end"]
    more = "" if each["end_detail"] == each["detail"] else each["end_detail"]
    reported = ": ".join(part for part in (end, more) if part)
    return f"{note} (reported by the provider: {reported})" if reported else note


def _price(each: documents.Instance | documents.RankedOffer) -> str:
    price = f"{display.dollars(each['price'])}/h" if each["price"] else ""
    return ", ".join(part for part in (price, each["price_source"]) if part)


def _more(data: documents.Jobs | documents.Instances) -> None:
    if data["more"]:
        click.echo("more rows exist; raise --limit to show them")


def pools(data: documents.Pools) -> None:
    rows = [
        [each["name"], each["waiting"] if each["known"] else f"{each['waiting']}?", each["running"],
         _of(each["live"], each["max_instances"]), each["warm"], f"{each['open_offers']} of {each['offers']}",
         "; ".join([*(["drained"] if each["drained"] else []),
                    *(note for note in each["held_back"] if note != "drained by an operator")])]
        for each in data["pools"]
    ]  # fmt: skip
    table(["pool", "waiting", "running", "instances", "warm", "open offers", "held back"], rows, empty="no pools")
    for name in data["retired"]:
        click.echo(f"pool {name} is no longer configured and still has instances")


def offers(data: documents.Offers) -> None:
    now = data["now"]
    click.echo(f"pool {data['pool']}: order {data['order']}, market {data['market']}")
    rows = [
        [each["place"], each["offer"], _price(each), display.dollars(each["dollars_at_most"]),
         "open" if each["open"] else "closed", display.span(each["until"] - now) if each["until"] > now else "",
         each["refusal"]]
        for each in data["offers"]
    ]  # fmt: skip
    table(["", "offer", "price", "at most", "state", "retry in", "reason"], rows, empty="no offer fits the pool")
    for text in (*data["problems"], *data["held_back"]):
        click.echo(f"  {text}")
    if data["drained"]:
        click.echo("the pool is drained: no offer is tried")


def explain(data: documents.Explanation) -> None:
    job = data["job"]
    click.echo(f"job {job['name']} of {job['repo']} ({job['id']}): {data['summary']}")
    if job["url"]:
        click.echo(f"  {job['url']}")
    _section("why" if job["state"] == "queued" else "what", data["why"])
    _section("next", data["next"])
    cost = data["cost"]
    if cost is not None:
        final = "cost" if cost["final"] else "has cost"
        used = display.span(cost["seconds"])
        price = f"{display.dollars(cost['price'])} an hour"
        source = f"; {cost['price_source']}" if cost["price_source"] else ""
        click.echo(f"its instance {final} {display.dollars(cost['dollars'])} ({used} at {price}{source})")
    if data["timeline"]:
        click.echo("timeline (UTC)")
        for each in data["timeline"]:
            who = f"{each['id']}: " if each["subject"] == "instance" else ""
            click.echo(f"  {clock(each['at'])}  {who}{each['text']}")


def _section(head: str, lines: Sequence[str]) -> None:
    if lines:
        click.echo(head)
    for each in lines:
        click.echo(f"  - {each}")


def ambiguous(data: Sequence[documents.Job]) -> None:
    rows = [[each["id"], each["conclusion"] or each["state"], each["repo"], each["name"], each["run"]] for each in data]
    table(["job", "state", "repo", "name", "run"], rows)


def events(data: Sequence[documents.Event]) -> None:
    for each in data:
        click.echo(f"{clock(each['at'])}  {each['subject']:12} {each['id']}  {each['text']}")


def logs(data: documents.Logs) -> None:
    click.echo(f"instance {data['instance']} ({data['state']})")
    if data["job_url"]:
        click.echo(f"the job's own log is at {data['job_url']}")
    for each in data["events"]:
        click.echo(f"  {clock(each['at'])}  {each['text']}")
    if data["end_text"]:
        click.echo(f"{data['reason'] or 'ended'}: {data['end_text']}")
    taken = f", taken {clock(data['console_at'])} UTC" if data["console"] else ""
    for head, text in ((f"console{taken}", data["console"]), ("agent diagnostics", data["diagnostics"])):
        if text:
            click.echo(f"--- {head}")
            click.echo(text.rstrip("\n"))
    if not data["console"]:
        click.echo(f"no console output: {data['console_problem']}")


def cost(data: documents.Cost) -> None:
    until = clock(data["until"]) if data["until"] else f"now ({clock(data['now'])}), plus committed cost"
    click.echo(f"from {clock(data['since'])} to {until}, UTC")
    heads = [data["by"], "cost", "committed", "instances", "hours", "GPU hours", "jobs"]
    rows = [[each["name"], *_sums(each)] for each in data["groups"]]
    if rows:
        rows.append(["total", *_sums(data["total"])])
    table(heads, rows, empty="nothing ran")
    for note in data["notes"]:
        click.echo(note)


def _sums(each: documents.Sum) -> list[Any]:
    return [display.dollars(each["dollars"]), display.dollars(each["committed"]), each["instances"],
            f"{each['hours']:.2f}", f"{each['gpu_hours']:.2f}", each["jobs"]]  # fmt: skip


def prices(data: documents.Prices) -> None:
    rows = [
        [each["offer"], each["gpus"] or "", f"{display.dollars(each['price'])}/h", each["price_source"],
         ", ".join(each["pools"])]
        for each in data["offers"]
    ]  # fmt: skip
    table(["offer", "GPUs", "price", "source", "pools"], rows, empty="no offers are known")
    for problem in data["problems"]:
        click.echo(problem)


def renewal(data: answers.Renewal) -> None:
    findings(data["findings"])
    click.echo(data["effect"])


def sweep(data: sweep_documents.Sweep, *, now: float) -> None:
    rows = [
        [provider["name"], each.get("kind", "instance"), each["ref"], each["instance"], each.get("status", ""),
         each["pool"], _deadline(each["deadline"], now), each["row"] or "no row",
         each.get("done") or each.get("why", "")]
        for provider in data["providers"] for each in (*provider["instances"], *provider["residues"])
    ]  # fmt: skip
    table(
        ["provider", "kind", "handle", "instance", "status", "pool", "deadline", "row", "action"],
        rows,
        empty="no instance or resource carries our tags",
    )
    for provider in data["providers"]:
        if provider["counts"]:
            counts = ", ".join(f"{number} {kind}" for kind, number in provider["counts"].items())
            click.echo(f"provider {provider['name']}: {counts}")
        if provider["problem"]:
            click.echo(f"provider {provider['name']} could not be listed: {provider['problem']}")
        for scope, why in provider["failures"].items():
            click.echo(f"provider {provider['name']} did not list {scope}: {why}")
    if not data["state_read"]:
        click.echo("the state could not be read, so everything is listed as having no row")
    for note in data.get("notes", ()):
        click.echo(note)


def _deadline(at: float, now: float) -> str:
    if not at:
        return "none"
    return f"in {display.span(at - now)}" if at > now else f"{display.span(now - at)} ago"


def findings(data: Sequence[answers.Finding]) -> None:
    rows = [[each["level"], each["place"], each["message"], each["remedy"]] for each in data]
    if sys.stdout.isatty():
        table(["", "place", "finding", "remedy"], rows)
        return
    for level, place, message, remedy in rows:
        click.echo(f"{level:7}  {place}: {message}" + (f"\n         -> {remedy}" if remedy else ""))
