"""Messages about a wrong configuration, in the terms of the file.

Turns the validation errors of the models into problems with a place, plain words and the nearest valid key. Knows the
models only through their fields, so a new field needs nothing here.
"""

from __future__ import annotations

import enum
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

import pydantic

from provisioners.support import spelling
from runnerd import errors
from runnerd.config import fields
from runnerd.kit import yamlfile

#: Keys of other tools, with their counterparts here.
ELSEWHERE = {
    "max": "write limits: {instances: N}",
    "max_instances": "write limits: {instances: N}",
    "min": "write warm: N",
    "min_idle": "write warm: N",
    "instance_type": "write types: [NAME]",
    "region": "regions belong to a provider",
    "spot": "write market: spot",
    "timeout": "write max_job: 12h",
    "idle_timeout": "write idle: 10m",
}

_NO_INSTANCE = "a pool that may have no instance serves no job; remove it or drain it"


def translate(
    error: pydantic.ValidationError, model: type[pydantic.BaseModel], document: yamlfile.Document
) -> list[errors.Problem]:
    """Return the errors of a validation as problems of the file, in the order of the file."""
    problems = []
    for detail in error.errors(include_url=False, include_input=True):
        place = _place(detail["loc"])
        if _inherited(place, document.data):
            continue
        problems.append(_problem(place, detail, model, document))
    return problems


def _place(loc: tuple[int | str, ...]) -> yamlfile.Place:
    parts = list(loc)
    if len(parts) > 2 and parts[0] == "forges":
        # The union's tag: github or gitlab.
        del parts[2]
    if len(parts) > 2 and parts[0] == "providers" and parts[2] == "options":
        del parts[2]
    if parts and parts[-1] == "[key]":
        parts.pop()
    return tuple(parts)


def _inherited(place: yamlfile.Place, data: Mapping[str, Any]) -> bool:
    """Return True when a pool only inherited the error: it is reported once, at `defaults`."""
    if len(place) < 3 or place[0] != "pools":
        return False
    own: Any = data["pools"].get(place[1]) or {}
    shared: Any = data.get("defaults")
    if not isinstance(shared, Mapping) or not isinstance(own, Mapping):
        return False
    for part in place[2:]:
        if not isinstance(shared, Mapping) or part not in shared:
            return False
        if not isinstance(own, Mapping) or part not in own:
            return True
        own, shared = own[part], shared[part]
    return False


def _problem(
    place: yamlfile.Place, detail: Any, model: type[pydantic.BaseModel], document: yamlfile.Document
) -> errors.Problem:
    kind: str = detail["type"]
    value: Any = detail.get("input")
    last = str(place[-1]) if place else ""
    if kind == "extra_forbidden":
        hint = ELSEWHERE.get(last) if place[0] in ("pools", "defaults") else None
        if hint and value == 0 and last in ("max", "max_instances"):
            hint = f"{_NO_INSTANCE}; for a ceiling {hint}"
        if hint:
            return document.problem(place, f"unknown key; {hint}")
        near = spelling.closest(last, keys_at(model, place[:-1], document.data))
        return document.problem(place, "unknown key", nearest=near)
    if kind == "missing":
        return document.problem(place, _missing(place))
    if kind == "value_error":
        return document.problem(place, str(detail["ctx"]["error"]))
    if kind in ("enum", "literal_error", "union_tag_invalid"):
        choices = _words(model, place, detail, document.data)
        if kind == "union_tag_invalid":
            place, value = (*place, "type"), detail["ctx"]["tag"]
        near = spelling.closest(value, choices) if isinstance(value, str) else None
        return document.problem(place, f"{_shown(value)} is not one of {', '.join(choices)}", nearest=near)
    if kind == "union_tag_not_found":
        return document.problem(
            (*place, "type"), f"is missing; write {' or '.join(f'type: {kind}' for kind in _types_of_forges(model))}"
        )
    if kind == "bool_type":
        hint = ""
        if isinstance(value, str) and value.lower() in ("yes", "on", "no", "off", "true", "false"):
            hint = f"; write {'true' if value.lower() in ('yes', 'on', 'true') else 'false'}"
        return document.problem(place, f"expected true or false, not {_shown(value)}{hint}")
    if kind == "string_type":
        return document.problem(place, f"expected a string, not {_shown(value)}{_quote(value)}")
    if kind in ("dict_type", "model_type", "model_attributes_type", "mapping_type"):
        return document.problem(place, f"expected a map of keys and values, not {_shown(value)}")
    if kind in ("tuple_type", "list_type"):
        return document.problem(place, f"expected a list, not {_shown(value)}")
    if kind == "too_short":
        return document.problem(place, "is empty; name at least one")
    if kind == "string_too_short":
        return document.problem(place, "is empty")
    if kind.startswith("date"):
        return document.problem(place, f"expected a day as YYYY-MM-DD, not {_shown(value)}")
    if kind == "string_pattern_mismatch":
        return document.problem(place, f"{_shown(value)} is not a valid name here")
    message: str = detail["msg"]
    return document.problem(place, message[:1].lower() + message[1:])


def _missing(place: yamlfile.Place) -> str:
    remedies: dict[tuple[str, ...], str] = {
        ("limits",): "is missing; add limits: {instances: 8}, so that no mistake is unbounded",
        ("controller",): "is missing; add a name that never changes, such as controller: acme-ci",
        ("forges",): "is missing; say where jobs come from",
        ("providers",): "is missing; say where instances come from",
        ("pools",): "is missing; say which labels get which machine",
    }
    return remedies.get(tuple(str(part) for part in place), "is missing")


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "a map"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, str):
        return f'"{value}"' if len(value) <= 60 else "a long string"
    return str(value)


def _quote(value: Any) -> str:
    return f'; quote it: "{_shown(value)}"' if isinstance(value, bool | int | float) else ""


def _words(model: type[pydantic.BaseModel], place: yamlfile.Place, detail: Any, data: Mapping[str, Any]) -> list[str]:
    if detail["type"] == "union_tag_invalid":
        return _types_of_forges(model)
    owner = model_at(model, place[:-1], data)
    field = _fields(owner).get(str(place[-1])) if owner else None
    choices = _choices(field.annotation) if field else []
    if not choices and owner is None and len(place) > 1:
        # An entry of a list of words.
        owner = model_at(model, place[:-2], data)
        field = _fields(owner).get(str(place[-2])) if owner else None
        choices = _choices(field.annotation) if field else []
    return choices


def _types_of_forges(model: type[pydantic.BaseModel]) -> list[str]:
    """Return the types of the union of forges."""
    _, entry = typing.get_args(model.model_fields["forges"].annotation)
    kinds = typing.get_args(typing.get_args(entry)[0])
    return [word for kind in kinds for word in _choices(kind.model_fields["type"].annotation)]


def _choices(annotation: Any) -> list[str]:
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return [str(member.value) for member in annotation]
    if typing.get_origin(annotation) is typing.Literal:
        return [str(word) for word in typing.get_args(annotation)]
    return [word for part in typing.get_args(annotation) for word in _choices(part)]


def keys_at(model: type[pydantic.BaseModel], place: Sequence[str | int], data: Mapping[str, Any]) -> list[str]:
    """Return the keys that a block of the file may have."""
    owner = model_at(model, place, data)
    return list(_fields(owner)) if owner else []


def model_at(model: type[pydantic.BaseModel], place: Sequence[str | int], data: Any) -> type[pydantic.BaseModel] | None:
    """Return the model of a block of the file, None when the place is not a block."""
    annotation: Any = model
    for part in place:
        block = _model_of(annotation, data)
        data = data.get(part) if isinstance(data, Mapping) else None
        if block is not None:
            field = _fields(block).get(str(part))
            if field is None:
                return None
            annotation = field.annotation
            continue
        args = typing.get_args(_without_none(annotation))
        if typing.get_origin(_without_none(annotation)) is not dict or len(args) != 2:
            return None
        annotation = args[1]
    return _model_of(annotation, data)


def _fields(model: type[pydantic.BaseModel]) -> dict[str, pydantic.fields.FieldInfo]:
    hidden = {"name"} if issubclass(model, fields.Named) else set()
    return {field.alias or name: field for name, field in model.model_fields.items() if name not in hidden}


def _without_none(annotation: Any) -> Any:
    if typing.get_origin(annotation) is typing.Annotated:
        annotation = typing.get_args(annotation)[0]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        left = [part for part in typing.get_args(annotation) if part is not type(None)]
        if len(left) == 1:
            return left[0]
    return annotation


def _model_of(annotation: Any, data: Any) -> type[pydantic.BaseModel] | None:
    annotation = _without_none(annotation)
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        return annotation
    if typing.get_origin(annotation) in (typing.Union, types.UnionType) and isinstance(data, Mapping):
        for part in typing.get_args(annotation):
            if isinstance(part, type) and issubclass(part, pydantic.BaseModel):
                tag = part.model_fields.get("type")
                if tag is not None and data.get("type") in typing.get_args(tag.annotation):
                    return part
    return None
