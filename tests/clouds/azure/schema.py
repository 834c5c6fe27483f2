"""Is that what Azure's Compute API takes and gives?  The SDK's own types and enums decide.

``azure.mgmt.compute.types`` spells requests as they are on the wire; the models tell which members only the service
sets.  The SDK itself checks nothing of this: it sends unknown members and misspelt enum values as they are.
"""

from __future__ import annotations

import enum
import functools
import typing
from collections.abc import Iterator
from types import UnionType
from typing import Any

import typing_extensions
from azure.mgmt.compute import models, types
from azure.mgmt.compute._utils import model_base

_NAMES = {**vars(models), **vars(types), "_models": models, "_types": types}
_WRAPPERS = (typing.Required, typing.NotRequired, typing_extensions.Required, typing_extensions.NotRequired)


def request_problems(body: Any, name: str) -> list[str]:
    """Return what is wrong with the body of a request: unknown or read-only members, wrong types, values of no enum."""
    return [*_typed(body, getattr(types, name), "$"), *_read_only(body, getattr(models, name), "$")]


def response_problems(body: Any, name: str) -> list[str]:
    """Return what is wrong with the body of a response."""
    model = getattr(models, name)
    return list(_modelled(body, model, "$"))


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind, globalns=_NAMES, include_extras=True)


def _typed(value: Any, kind: Any, path: str) -> Iterator[str]:
    origin = typing.get_origin(kind)
    if origin in _WRAPPERS or origin is typing.Annotated:
        yield from _typed(value, typing.get_args(kind)[0], path)
    elif typing_extensions.is_typeddict(kind):
        yield from _mapping(value, kind, path)
    else:
        yield from _plain(value, kind, path, _typed)


def _mapping(value: Any, kind: Any, path: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{path}: is not an object"
        return
    known = _hints(kind)
    for key, inner in value.items():
        if key not in known:
            yield f"{path}.{key}: is not a member of {kind.__name__}"
        else:
            yield from _typed(inner, known[key], f"{path}.{key}")
    for key, hint in known.items():
        if typing.get_origin(hint) in (typing.Required, typing_extensions.Required) and key not in value:
            yield f"{path}.{key}: is missing"


def _plain(value: Any, kind: Any, path: str, inner: Any) -> Iterator[str]:
    """Unions, lists, maps, enums and scalars."""
    origin, arguments = _taken_apart(kind)
    if origin is typing.Union or origin is UnionType:
        yield from _union(value, arguments, path, inner)
    elif origin is list:
        if not isinstance(value, list):
            yield f"{path}: is not a list"
            return
        for position, one in enumerate(value):
            yield from inner(one, arguments[0], f"{path}[{position}]")
    elif origin is dict:
        if not isinstance(value, dict):
            yield f"{path}: is not an object"
            return
        for key, one in value.items():
            yield from inner(one, arguments[1], f"{path}.{key}")
    elif origin is typing.Literal:
        if value not in arguments:
            yield f"{path}: {value!r} is not one of {arguments}"
    elif kind is models.VirtualMachineSizeTypes:
        # Closed years ago: no size with a GPU of today is in it.  The simulated regions know their sizes.
        if not isinstance(value, str):
            yield f"{path}: {value!r} is not the name of a size"
    elif isinstance(kind, type) and issubclass(kind, enum.Enum):
        if value not in _values(kind):
            yield f"{path}: {value!r} is not a value of {kind.__name__}"
    elif kind is float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            yield f"{path}: {value!r} is not a number"
    elif kind is int:
        if isinstance(value, bool) or not isinstance(value, int):
            yield f"{path}: {value!r} is not a whole number"
    elif isinstance(kind, type) and kind.__module__ == "datetime":
        if not isinstance(value, str):
            yield f"{path}: {value!r} is not a time"
    elif isinstance(kind, type) and kind is not object and not isinstance(value, kind):
        yield f"{path}: {value!r} is not {kind.__name__}"


@functools.cache
def _taken_apart(kind: Any) -> tuple[Any, tuple[Any, ...]]:
    return typing.get_origin(kind), typing.get_args(kind)


def _union(value: Any, arguments: tuple[Any, ...], path: str, inner: Any) -> Iterator[str]:
    if value is None and type(None) in arguments:
        return
    tries = []
    for one in _choices(arguments):
        tries.append(list(inner(value, one, path)))
        if not tries[-1]:
            return
    yield from min(tries, key=len)


@functools.cache
def _values(kind: type[enum.Enum]) -> tuple[Any, ...]:
    return tuple(one.value for one in kind)


@functools.cache
def _choices(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the meaning of a union; ``Union[str, SomeEnum]`` is how the SDK writes an enum that may grow.

    What is not in such an enum is a slip all the same.
    """
    enums = tuple(one for one in arguments if isinstance(one, type) and issubclass(one, enum.Enum))
    return enums or tuple(one for one in arguments if one is not type(None))


@functools.cache
def _fields(model: Any) -> dict[str, tuple[str, Any, list[str] | None]]:
    """Wire name -> (attribute, type, who may set it)."""
    model.__new__(model)  # the first instance fills in the class's table
    hints = _hints(model)
    return {
        field._rest_name: (name, hints[name], field._visibility)
        for name, field in model._attr_to_rest_field.items()
        if name in hints
    }


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, model_base.Model)


def _modelled(value: Any, kind: Any, path: str) -> Iterator[str]:
    if not _is_model(kind):
        yield from _plain(value, kind, path, _modelled)
        return
    if not isinstance(value, dict):
        yield f"{path}: is not an object"
        return
    known = _fields(kind)
    for key, inner in value.items():
        if key not in known:
            yield f"{path}.{key}: is not a member of {kind.__name__}"
        else:
            yield from _modelled(inner, known[key][1], f"{path}.{key}")


def _read_only(value: Any, kind: Any, path: str) -> Iterator[str]:
    """Members that only the service sets."""
    origin = typing.get_origin(kind)
    if origin is typing.Union:
        for one in typing.get_args(kind):
            if _is_model(one) or typing.get_origin(one) is list:
                yield from _read_only(value, one, path)
    elif origin is list and isinstance(value, list):
        for position, one in enumerate(value):
            yield from _read_only(one, typing.get_args(kind)[0], f"{path}[{position}]")
    elif _is_model(kind) and isinstance(value, dict):
        known = _fields(kind)
        for key, inner in value.items():
            if key in known:
                _, hint, settable = known[key]
                if settable == ["read"]:
                    yield f"{path}.{key}: is set by the service only"
                else:
                    yield from _read_only(inner, hint, f"{path}.{key}")
