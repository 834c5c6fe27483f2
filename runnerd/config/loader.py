"""Loading: one YAML file, or data in memory, becomes a `Config`.

Names entries by their keys, merges pools with `defaults`, sets a provider's own options apart, and reports every
problem at once, each at the line of its key. The models say what is valid.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pydantic

from runnerd import errors
from runnerd.config import messages, plugins, rules
from runnerd.config.forges import AnyForge
from runnerd.config.limits import Limits
from runnerd.config.plugins import Provisioners
from runnerd.config.pools import Defaults, Pool, Provider, Team
from runnerd.config.schema import Config
from runnerd.kit import redaction, secrets, yamlfile


def load(
    path: str | os.PathLike[str],
    *,
    environ: Mapping[str, str] | None = None,
    reveal: bool = True,
    provisioners: Provisioners | None = None,
) -> Config:
    """Read a configuration file.

    Relative paths in it start at its directory. With `reveal`, each secret is read once to prove that it
    is there. `provisioners` are known beside (and before) the installed ones. Raises errors.ConfigInvalid
    with every problem found, each with file, line and key.
    """
    file = Path(path)
    document = yamlfile.read(file)
    return _build(
        document,
        folder=file.resolve().parent,
        environ=environ,
        reveal=reveal,
        provisioners=provisioners or {},
    )


def from_mapping(
    data: Mapping[str, Any],
    *,
    folder: Path | None = None,
    environ: Mapping[str, str] | None = None,
    reveal: bool = False,
    provisioners: Provisioners | None = None,
) -> Config:
    """Read data in memory; relative paths start at `folder`. Raises errors.ConfigInvalid, without lines."""
    document = yamlfile.Document("configuration", copy.deepcopy(dict(data)))
    return _build(
        document, folder=folder or Path.cwd(), environ=environ, reveal=reveal, provisioners=provisioners or {}
    )


def _build(
    document: yamlfile.Document,
    *,
    folder: Path,
    environ: Mapping[str, str] | None,
    reveal: bool,
    provisioners: Provisioners,
) -> Config:
    context = {"base": folder, "environ": os.environ if environ is None else environ}
    data = _prepared(document.data)
    problems = [*_named(document), *plugins.complaints(document, data, provisioners)]
    settings: Config | None = None
    try:
        settings = Config.model_validate(data, context=context)
    except pydantic.ValidationError as error:
        problems += messages.translate(error, Config, document)
    problems += [
        document.problem(complaint.place, complaint.message, nearest=complaint.nearest)
        for complaint in rules.complaints(_names(document.data), _readable(data, context))
    ]
    if settings is not None:
        settings._folder = folder
        settings = _with_places(settings, document)
        if reveal:
            problems += _unreadable(settings, document)
    if problems or settings is None:
        seen: dict[tuple[str, str], errors.Problem] = {}
        for problem in sorted(problems, key=lambda problem: (problem.line, problem.column)):
            # A message may quote what stands in the file; a token pasted in the wrong place must not reach a log.
            safe = dataclasses.replace(problem, message=redaction.redact(problem.message))
            seen.setdefault((safe.path, safe.message), safe)
        raise errors.ConfigInvalid(list(seen.values()))
    return settings


def _prepared(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the data as the models read it: entries named, pools merged with defaults, providers' options apart."""
    ready: dict[str, Any] = copy.deepcopy(dict(data))
    for section in ("forges", "providers", "pools", "teams"):
        entries = ready.get(section)
        if not isinstance(entries, dict):
            continue
        for name, entry in entries.items():
            if entry is None and section == "pools":
                entries[name] = entry = {}
            if isinstance(entry, dict):
                entry.pop("name", None)
                entry["name"] = name
    shared = ready.get("defaults")
    # Runner commands are merged when one is asked for: the provider stands between defaults and pool.
    shared = {key: value for key, value in shared.items() if key != "runner"} if isinstance(shared, dict) else {}
    inherited = {field.alias or name for name, field in Defaults.model_fields.items()}
    for name, pool in (ready.get("pools") or {}).items() if isinstance(ready.get("pools"), dict) else ():
        if isinstance(pool, dict):
            merged = _merged({key: value for key, value in shared.items() if key in inherited}, pool)
            merged.setdefault("labels", [name])
            for key, section in (("from", "providers"), ("forges", "forges")):
                merged.setdefault(key, list(ready[section]) if isinstance(ready.get(section), dict) else [])
            ready["pools"][name] = merged
    if isinstance(ready.get("providers"), dict):
        for name, provider in ready["providers"].items():
            if isinstance(provider, dict):
                own = {
                    key: value for key, value in provider.items() if key in Provider.model_fields and key != "options"
                }
                options = {key: value for key, value in provider.items() if key not in own}
                ready["providers"][name] = {**own, "options": options}
    return ready


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Merge maps key by key; replace everything else."""
    result = copy.deepcopy(dict(below))
    for key, value in above.items():
        under = result.get(key)
        result[key] = _merged(under, value) if isinstance(under, dict) and isinstance(value, dict) else value
    return result


def _names(data: Mapping[str, Any]) -> rules.Names:
    def keys(section: str) -> tuple[str, ...]:
        entries = data.get(section)
        return tuple(entries) if isinstance(entries, Mapping) else ()

    return rules.Names(keys("forges"), keys("providers"), keys("pools"), keys("teams"))


def _named(document: yamlfile.Document) -> Iterator[errors.Problem]:
    """Yield a problem for each entry with a key `name`: the entry's key is its name."""
    for section in ("forges", "providers", "pools", "teams"):
        entries = document.data.get(section)
        for name, entry in entries.items() if isinstance(entries, Mapping) else ():
            if isinstance(entry, Mapping) and "name" in entry:
                yield document.problem((section, name, "name"), f'unknown key; the name is "{name}" already')


def _readable(data: Mapping[str, Any], context: Mapping[str, Any]) -> rules.Blocks:
    """Return the blocks that can be read although others cannot, so that all problems show at once."""

    def entries(section: str, kind: Any) -> dict[str, Any]:
        adapter = pydantic.TypeAdapter[Any](kind)
        valid = {}
        section_data = data.get(section)
        for name, entry in section_data.items() if isinstance(section_data, Mapping) else ():
            try:
                valid[name] = adapter.validate_python(entry, context=dict(context))
            except pydantic.ValidationError as error:
                # Without the keys that are wrong; what is left may break a rule too.
                # (A forge's errors begin with its type.)
                at = 1 if section == "forges" else 0
                wrong = {detail["loc"][at] for detail in error.errors() if len(detail["loc"]) > at}
                if not isinstance(entry, Mapping) or wrong & {"labels", "from", "forges", "name", "type"}:
                    continue
                left = {key: value for key, value in entry.items() if key not in wrong}
                with contextlib.suppress(pydantic.ValidationError):
                    valid[name] = adapter.validate_python(left, context=dict(context))
        return valid

    limits: Limits | None = None
    with contextlib.suppress(pydantic.ValidationError):
        limits = Limits.model_validate(data.get("limits"))
    return rules.Blocks(
        limits=limits,
        forges=entries("forges", AnyForge),
        providers=entries("providers", Provider),
        pools=entries("pools", Pool),
        teams=entries("teams", Team),
    )


def _with_places(value: Any, document: yamlfile.Document, place: yamlfile.Place = ()) -> Any:
    """Return the same configuration with each secret knowing the line that names it."""
    if isinstance(value, secrets.Secret):
        at = document.position(place)
        line = f"{document.file}:{at.line}" if document.keys else document.file
        return value.at(f"{line}: {yamlfile.dotted(place)}")
    if isinstance(value, pydantic.BaseModel):
        changed = {}
        for name, field in type(value).model_fields.items():
            old = getattr(value, name)
            new = _with_places(old, document, (*place, field.alias or name))
            if new is not old:
                changed[name] = new
        return value.model_copy(update=changed) if changed else value
    if isinstance(value, dict) and any(isinstance(item, pydantic.BaseModel) for item in value.values()):
        new_items = {key: _with_places(item, document, (*place, key)) for key, item in value.items()}
        return new_items if any(new_items[key] is not value[key] for key in value) else value
    return value


def _unreadable(settings: Config, document: yamlfile.Document) -> Iterator[errors.Problem]:
    for place, secret in settings.secrets():
        try:
            secret.reveal()
        except errors.SecretMissing as error:
            yield document.problem(place, str(error).removeprefix(f"{secret.place}: "))
