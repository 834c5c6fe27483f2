"""Models and endpoints of the SDK, which are the same for every client and are loaded once here.

Tests make hundreds of clients, and describing EC2 to each takes a tenth of a second.  Nothing that a client remembers,
sends or does is shared.
"""

from __future__ import annotations

import functools
from typing import Any

import botocore.client
import botocore.hooks
import botocore.loaders
import botocore.model

#: The descriptions of all services, read once.
LOADER = botocore.loaders.Loader(include_default_search_paths=True)

_Creator = botocore.client.ClientCreator
_describe, _make_class = _Creator._load_service_model, _Creator._create_client_class
_make_aliaser = botocore.hooks.EventAliaser.__init__
_models: dict[tuple[str, str | None], botocore.model.ServiceModel] = {}
_classes: dict[str, type] = {}
_names: dict[str, str] = {}


def _described_once(creator: Any, service_name: str, api_version: str | None = None) -> botocore.model.ServiceModel:
    found = _models.get((service_name, api_version))
    if found is None:
        found = _models[service_name, api_version] = _describe(creator, service_name, api_version)
    return found


def _made_once(creator: Any, service_name: str, model: Any) -> type:
    """A class of 750 methods for EC2."""
    found = _classes.get(service_name)
    if found is None:
        found = _classes[service_name] = _make_class(creator, service_name, model)
    return found


def _aliased_once(aliaser: Any, event_emitter: Any, event_aliases: dict[str, str] | None = None) -> None:
    """Old names of events in the SDK's own list."""
    _make_aliaser(aliaser, event_emitter, event_aliases)
    if aliaser._event_aliases == botocore.hooks.EVENT_ALIASES:
        aliaser._alias_name_cache = _names


@functools.cache
def install() -> None:
    """Let every client share it from now on."""
    _Creator._load_service_model = _described_once
    _Creator._create_client_class = _made_once
    botocore.hooks.EventAliaser.__init__ = _aliased_once
