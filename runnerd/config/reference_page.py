"""docs/configuration.md, written from the models so that it cannot fall behind them."""

from __future__ import annotations

import datetime
import enum
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pydantic
from pydantic_core import PydanticUndefined

from provisioners.support import units
from runnerd.config import fields, values
from runnerd.config.schema import Config

_INTRODUCTION = """\
# Configuration

<!-- Written by `runnerd.config.reference()`; a test compares. Change the models, not this page. -->

One YAML file, read by `runnerd run --config FILE`. Unknown keys, duplicate keys and values of the wrong
type or unit are rejected with file, line and the nearest valid key, all at once. `runnerd schema`
prints a JSON Schema for editors, `runnerd config show POOL` the effective settings of a pool, `runnerd check` problems
and warnings.

- **Durations** have a unit: `30s`, `10m`, `12h`, `1.5h`, `1h30m`, `7d`. Units are `ms`, `s`, `m`, `h`, `d` and `w`,
  each at most once and the largest first; only `0` needs none. Options of commands are read the same way.
- **Sizes** have a unit: `500MB` (decimal), `16GiB` (binary). Units are `B`, `kB`, `MB`, `GB`, `TB`, `KiB`, `MiB`,
  `GiB` and `TiB`.
- **In the options of providers**, a number without a unit counts seconds or bytes; a string is read as in the rest of
  the file.
- **Dollars** are US dollars: `200`, `0.50`.
- **Secrets** are references, never values: `file:/path` (read at each use, so a rotated file takes effect at once),
  `env:NAME`, `credential:NAME` (systemd's `LoadCredential=`). A relative path is relative to the configuration
  file.
- **No surprises of YAML**: `yes`, `on` and `12:30` are strings; only `true` and `false` are booleans. Anchors,
  aliases and merge keys are rejected.
- **`defaults` is the only inheritance**: maps merge key by key, lists and single values are replaced.
- **Names** of forges, providers, pools and teams have 1 to 40 of `a-z`, `0-9`, `_` and `-`.
"""

_WARM = """\
## Warm periods

`warm` is a number, or a map from times to numbers. Where several apply at once, the largest counts; at other times 0.

| Key | The number applies |
|---|---|
| `"Mon-Fri 08:00-19:00 Europe/Berlin"` | on these days between these hours, local time |
| `"Mon,Wed 08:00-12:00 UTC"`, `"08:00-20:00"` | several days; every day (UTC when no zone is named) |
| `"Fri 22:00-06:00 Europe/Berlin"` | overnight; it belongs to the day on which it starts |
| `"Sat-Sun 00:00-24:00 America/New_York"` | whole days |
| `"0 8 * * mon-fri Europe/Berlin"` | cron (minute, hour, day, month, day of the week, zone): from then on, until any cron entry fires next |

When clocks go forward, a skipped time counts as the moment of the change. When they go back, a period runs from the
first occurrence of its start to the last occurrence of its end, and a cron entry within the repeated hour fires twice. As
in cron, an entry that restricts both day fields fires when either matches.
"""  # noqa: E501  # rows of a table


#: The word of the page for a value, by the function that reads it.
_WORDS: Mapping[Any, str] = {
    units.duration: "duration",
    values.positive_duration: "duration",
    units.size: "size",
    units.dollars: "dollars",
    values.secret: "secret",
    values.path: "path",
    values.share: "fraction",
    values.texts: "list",
    values.command: "list",
    values.machine_types: "list or map",
    values.gpu: "GPU",
    values.warm: "number or map",
    values.listen_address: "host:port",
    values.web_url: "URL",
    values.forge_url: "URL",
    values.database_url: "URL or secret",
    values.tags: "map of strings",
    values.environment: "map of strings",
    values.app_id: "number or string",
    values.positive_number: "number",
}


def reference() -> str:
    """Return docs/configuration.md: one table for each block, in the order of the file."""
    parts = [_INTRODUCTION]
    for title, block in _blocks(Config):
        lines = [f"## {title}", ""]
        about = (block.__doc__ or "").strip()
        lines += [_flow(about), ""] if about else []
        lines += ["| Key | Value | Default | Meaning |", "|---|---|---|---|"]
        for key, field in _fields(block):
            meaning = _cell(_flow(field.description or ""))
            lines.append(f"| `{key}` | {_cell(_kind(field))} | {_cell(_default(field))} | {meaning} |")
        parts.append("\n".join(lines) + "\n")
    parts.append(_WARM)
    return "\n".join(parts)


def _blocks(model: type[pydantic.BaseModel]) -> Iterator[tuple[str, type[pydantic.BaseModel]]]:
    """Yield every block once, in the place of its first use; `defaults` before the pools that repeat its keys."""
    yield "Top level", model
    seen: set[type[pydantic.BaseModel]] = {model}
    waiting = [("", model)]
    while waiting:
        path, block = waiting.pop(0)
        inner = []
        for key, field in _fields(block):
            for model_inside, suffix in _models(field.annotation):
                if model_inside in seen:
                    continue
                seen.add(model_inside)
                here = f"{path}.{key}{suffix}" if path else f"{key}{suffix}"
                tag = model_inside.model_fields.get("type")
                word = typing.get_args(tag.annotation) if tag else ()
                yield f"`{here}`" + (f" of type `{word[0]}`" if len(word) == 1 else ""), model_inside
                inner.append((here, model_inside))
        waiting = inner + waiting


def _models(annotation: Any) -> Iterator[tuple[type[pydantic.BaseModel], str]]:
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        yield annotation, ""
    elif typing.get_origin(annotation) is dict:
        for block, _ in _models(typing.get_args(annotation)[1]):
            yield block, ".NAME"
    else:
        for part in typing.get_args(annotation):
            yield from _models(part)


def _fields(block: type[pydantic.BaseModel]) -> list[tuple[str, pydantic.fields.FieldInfo]]:
    own = dict(sorted(block.model_fields.items(), key=lambda item: item[0] not in block.__annotations__))
    # A block that inherits lists its own keys first; where its parent is a block of the file, only its own.
    for parent in block.__mro__[1:]:
        if parent.__name__ == "Defaults":
            for name in typing.cast(type[pydantic.BaseModel], parent).model_fields:
                own.pop(name, None)
    open_block = block.__name__ == "Provider"
    hidden = {"name"} if issubclass(block, fields.Named) else set()
    hidden |= {"options"} if open_block else set()
    return [(field.alias or name, field) for name, field in own.items() if name not in hidden]


def _kind(field: pydantic.fields.FieldInfo) -> str:
    return _word_of(field.metadata) or _word(field.annotation)


def _word_of(metadata: Sequence[Any]) -> str:
    functions = (getattr(item, "func", None) for item in metadata)
    return next((_WORDS[func] for func in functions if func in _WORDS), "")


def _word(annotation: Any) -> str:
    simple = {
        str: "string",
        int: "number",
        float: "number",
        bool: "`true` or `false`",
        datetime.date: "day",
        Any: "any",
    }
    if annotation in simple:
        return simple[annotation]
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return ", ".join(f"`{member.value}`" for member in annotation)
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        return "block"
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _word_of(args[1:]) or _word(args[0])
    if origin is typing.Literal:
        return ", ".join(f"`{word}`" for word in args)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(_word(part) for part in args if part is not type(None)))
    if origin is dict:
        return f"map of {_plural(_word(args[1]))}"
    return f"list of {_word(args[0])}" if origin is tuple else "string"


def _plural(word: str) -> str:
    if word.startswith("map of"):
        return "maps"
    return "values" if word == "any" else f"{word}s"


def _default(field: pydantic.fields.FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    value = field.get_default(call_default_factory=True)
    if value is None or value is PydanticUndefined or value == {} or isinstance(value, pydantic.BaseModel):
        return ""
    kind = _kind(field)
    if isinstance(value, enum.Enum):
        return f"`{value.value}`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if kind == "duration":
        return f"`{units.show_duration(value)}`"
    if kind == "size":
        return f"`{units.show_size(value)}`"
    if isinstance(value, tuple):
        return f"`[{', '.join(value)}]`" if value else ""
    return f"`{value}`"


def _flow(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
