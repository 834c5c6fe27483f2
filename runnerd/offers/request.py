"""The create request of an instance: composed once, stored whole, sent the same again.

A request is stored with a placeholder where its one-time token goes, so that a replay is byte-identical and a dump of
the state holds no secret.  ``check`` composes the same requests as samples, which buy nothing.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
from dataclasses import dataclass

from provisioners import base
from runnerd import bootstrap, config
from runnerd.model import AttemptKey, InstanceId

#: The repository that an instance was bought for.
TAG_REPO = "runnerd-repo"
#: Bytes of the longest name of an instance and of a boot token, both of which are made later than a script is judged.
_LONGEST_NAME, TOKEN_SIZE = 48, 95
#: The size of the agent archive's SHA-256 in hex.
_DIGEST_SIZE = 64


@dataclass(frozen=True, slots=True)
class _BootScript:
    """The part that all boot scripts of a pool have in common at a provider."""

    url: str
    python: str
    power_off: tuple[str, ...]
    lifetime: float
    preemption_notice: float

    def render(self, *, instance: str, bundle: str) -> str:
        return bootstrap.render(
            url=self.url,
            instance=instance,
            bundle=bundle,
            python=self.python,
            power_off=self.power_off,
            lifetime=self.lifetime,
            preemption_notice=self.preemption_notice,
        )


def compose(
    settings: config.Config,
    offer: base.Offer,
    *,
    pool: config.Pool,
    traits: base.Traits,
    instance: InstanceId,
    key: AttemptKey,
    repo: str,
    bundle: str,
    now: float,
) -> base.CreateRequest:
    """Compose the request for one instance of an offer; ``bundle`` is the agent archive's SHA-256 in hex."""
    deadline = now + pool.lifetime
    return base.CreateRequest(
        key=key,
        name=instance,
        offer=offer,
        user_data=_boot_script(settings, pool, offer.provider, traits).render(instance=instance, bundle=bundle),
        tags=_tags(settings, offer, pool=pool, instance=instance, key=key, repo=repo, deadline=deadline),
        deadline=deadline,
        lifetime=pool.lifetime,
        disk=pool.disk or 0,
        options=pool.options.get(offer.provider, {}),
    )


def boot_script_problem(settings: config.Config, pool: config.Pool, provider: str, traits: base.Traits) -> str:
    """Return why a provider would refuse the boot script of a pool's instances; empty when it takes it."""
    try:
        size = _largest(_boot_script(settings, pool, provider, traits))
    except ValueError as error:
        return f"the boot script cannot be written: {error}"
    if size <= traits.user_data_limit:
        return ""
    return f"the boot script has {size} bytes, and {provider} takes {traits.user_data_limit} as user data"


def _boot_script(settings: config.Config, pool: config.Pool, provider: str, traits: base.Traits) -> _BootScript:
    return _BootScript(
        url=settings.agent_address(provider).rstrip("/"),
        python=sys.executable if traits.beside_daemon else "python3",
        power_off=() if traits.beside_daemon else traits.power_off,
        lifetime=pool.lifetime,
        preemption_notice=traits.preemption_notice,
    )


@functools.lru_cache(maxsize=1024)
def _largest(script: _BootScript) -> int:
    """Return the bytes that a script has at most when it is sent.  Cached, because every ranking of offers asks."""
    text = script.render(instance="i" * _LONGEST_NAME, bundle="0" * _DIGEST_SIZE)
    return len(text.replace(base.TOKEN_PLACEHOLDER, "0" * TOKEN_SIZE).encode())


def _tags(
    settings: config.Config,
    offer: base.Offer,
    *,
    pool: config.Pool,
    instance: InstanceId,
    key: AttemptKey,
    repo: str,
    deadline: float,
) -> dict[str, str]:
    """Return the operator's tags with ours, which cannot be overridden."""
    tags = {
        **settings.tags_for(pool.name, provider=offer.provider, repo=repo),
        base.TAG_CONTROLLER: settings.controller,
        base.TAG_INSTANCE: instance,
        base.TAG_POOL: pool.name,
        base.TAG_ATTEMPT: key,
        base.TAG_DEADLINE: str(int(deadline)),
        base.TAG_PRICE: f"{offer.price:g}",
    }
    if repo:
        tags[TAG_REPO] = repo
    return tags


def seal(request: base.CreateRequest) -> str:
    """Return the whole request as JSON, its token a placeholder."""
    return json.dumps(dataclasses.asdict(request), sort_keys=True)


def unseal(sealed: str, token: str) -> base.CreateRequest:
    """Return the request as it is sent."""
    raw = json.loads(sealed)
    offer = raw.pop("offer")
    offer["market"] = base.Market(offer["market"])
    raw["user_data"] = raw["user_data"].replace(base.TOKEN_PLACEHOLDER, token)
    return base.CreateRequest(offer=base.Offer(**offer), **raw)
