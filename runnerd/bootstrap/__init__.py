"""The boot script of an instance: fetches the agent, verifies its hash and runs it.

The script contains one token, valid for one exchange, and no other secret; in stored scripts the token is a
placeholder.  Nothing is fetched from third parties: only the agent, from the daemon.
"""

from __future__ import annotations

import json
import shlex

import jinja2

from provisioners.base import POWER_OFF, TOKEN_PLACEHOLDER

_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("runnerd.bootstrap"),
    undefined=jinja2.StrictUndefined,
    keep_trailing_newline=True,
    trim_blocks=True,
    autoescape=False,  # noqa: S701  # a shell script, not HTML; every value is JSON or a checked word
)


def render(
    *,
    url: str,
    instance: str,
    bundle: str,
    lifetime: float,
    python: str = "python3",
    power_off: tuple[str, ...] = POWER_OFF,
    preemption_notice: float = 0.0,
) -> str:
    """Return the boot script with a placeholder for the token.

    ``url`` is the daemon's address for instances, ``bundle`` the agent archive's SHA-256 in hex.  ``power_off`` is the
    command by which the machine ends itself, when its agent exits or ``lifetime`` seconds after boot; it is empty for
    an instance that is only a process, which also ignores the notices of its host.  ``preemption_notice`` is in
    seconds, 0 for the cloud's default.
    """
    facts: dict[str, object] = {"url": url, "token": TOKEN_PLACEHOLDER, "instance": instance}
    if power_off:
        facts["power_off"] = list(power_off)
        if preemption_notice > 0:
            facts["preemption_notice"] = preemption_notice
    else:
        facts["cloud"] = ""
    settings = json.dumps(facts, indent=1)
    end = shlex.join(power_off)
    if any("\nRUNNERD_END\n" in f"\n{text}\n" for text in (settings, end)) or "'" in python:
        raise ValueError("a value would break out of the script")
    return _TEMPLATES.get_template("fetch.sh.j2").render(
        url=shlex.quote(url),
        bundle=bundle,
        settings=settings,
        python=python,
        power_off=bool(power_off),
        end=end,
        lifetime=round(lifetime),
    )
