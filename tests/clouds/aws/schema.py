"""The official description of Amazon's services, as it ships with the SDK: what a request may say, how answers look."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import botocore.model
from moto.core.model import ServiceModel
from moto.core.serialize import XFormedAttributePicker, get_serializer_class
from moto.core.utils import get_service_model
from moto.ec2.responses import EC2Response

from tests.clouds import wire
from tests.clouds.aws import refusals

#: What moto says of an instance whatever its state is ours to say.
_OVERWRITTEN = "RunInstances.Reservation.Instances.Instance.State"
_TRANSFORMERS = {
    path: change for path, change in EC2Response.RESPONSE_KEY_PATH_TO_TRANSFORMER.items() if path != _OVERWRITTEN
}


@functools.lru_cache
def service(name: str) -> ServiceModel:
    return get_service_model(name)


def operation(service_name: str, name: str) -> Any:
    """The operation, or a refusal."""
    try:
        return service(service_name).operation_model(name)
    except botocore.model.OperationNotFoundError:
        raise refusals.Refused("InvalidAction", f"The action {name} is not valid for this web service.") from None


def check(service_name: str, name: str, form: Mapping[str, str]) -> None:
    """Refuse a form that the description does not allow: names, numbers, choices."""
    shape = operation(service_name, name).input_shape
    for key, value in form.items():
        if key in ("Action", "Version"):
            continue
        leaf = _leaf(shape, tuple(key.split(".")))
        if leaf is None:
            raise refusals.Refused("UnknownParameter", f"The parameter {key} is not recognized")
        if leaf.type_name in ("integer", "long") and not re.fullmatch(r"-?\d+", value):
            raise refusals.Refused("InvalidParameterValue", f"Invalid value '{value}' for {key}: not a number")
        if leaf.type_name == "boolean" and value not in ("true", "false"):
            raise refusals.Refused("InvalidParameterValue", f"Invalid value '{value}' for {key}: not a boolean")
        if getattr(leaf, "enum", None) and value not in leaf.enum:
            raise refusals.Refused("InvalidParameterValue", f"Invalid value '{value}' for {key.split('.')[-1]}.")


@functools.lru_cache(maxsize=4096)
def _leaf(shape: Any, path: tuple[str, ...]) -> Any:
    """The shape that a dotted key stands for, None where there is none."""
    if not path:
        return shape if shape is not None and shape.type_name not in ("structure", "list", "map") else None
    if shape is None:
        return None
    if shape.type_name == "structure":
        for member, inner in shape.members.items():
            if _wire_name(member, inner) == path[0]:
                return _leaf(inner, path[1:])
        return None
    if shape.type_name == "list" and path[0].isdigit():
        return _leaf(shape.member, path[1:])
    return None


def _wire_name(member: str, shape: Any) -> str:
    if "queryName" in shape.serialization:
        return str(shape.serialization["queryName"])
    name = str(shape.serialization.get("name", member))
    return name[0].upper() + name[1:]


def answer(service_name: str, name: str, result: Any, *, moto: bool = False) -> wire.Answer:
    """A result in the service's own protocol: maps in the words of the description, or with objects of moto.

    Raises AssertionError for a word of ours that the description does not know.
    """
    model = operation(service_name, name)
    if not moto and result is not None:
        unknown = list(_strangers(model.output_shape, result))
        assert not unknown, f"{name} tells what {service_name} does not: {unknown}"
    serializer = get_serializer_class(service_name, service(service_name).metadata["protocol"])(
        operation_model=model,
        value_picker=XFormedAttributePicker(response_transformers=_TRANSFORMERS) if moto else _plain,
    )
    told = serializer.serialize(result)
    body = told["body"]
    return wire.Answer(told["status_code"], dict(told["headers"]), body.encode() if isinstance(body, str) else body)


def _plain(context: Any) -> Any:
    return context.obj.get(context.key)


def _strangers(shape: Any, value: Any, path: str = "") -> Iterator[str]:
    """Yield what is wrong with a value beyond its shape."""
    if value is None:
        return
    if shape.type_name == "structure":
        for key, inner in value.items():
            if key not in shape.members:
                yield f"{path}.{key}"
            else:
                yield from _strangers(shape.members[key], inner, f"{path}.{key}")
    elif shape.type_name == "list":
        for inner in value:
            yield from _strangers(shape.member, inner, path)
    elif getattr(shape, "enum", None) and value not in shape.enum:
        yield f"{path}={value}"


def numbered(form: Mapping[str, str], prefix: str) -> list[str]:
    """``InstanceId.1``, ``InstanceId.2``, ... in order."""
    found = {int(key.rpartition(".")[2]): value for key, value in form.items() if re.fullmatch(rf"{prefix}\.\d+", key)}
    return [found[number] for number in sorted(found)]


def entries(form: Mapping[str, str], prefix: str) -> list[dict[str, str]]:
    """``TagSpecification.1.Tag.2.Key`` and so on, as one form for each number."""
    found: dict[int, dict[str, str]] = {}
    for key, value in form.items():
        match = re.fullmatch(rf"{re.escape(prefix)}\.(\d+)\.(.+)", key)
        if match:
            found.setdefault(int(match[1]), {})[match[2]] = value
    return [found[number] for number in sorted(found)]


def tags(entry: Mapping[str, str]) -> list[tuple[str, str]]:
    return [(one.get("Key", ""), one.get("Value", "")) for one in entries(entry, "Tag")]


def filters(form: Mapping[str, str]) -> list[tuple[str, list[str]]]:
    return [(one.get("Name", ""), numbered(one, "Value")) for one in entries(form, "Filter")]


def types() -> Iterable[str]:
    """Every instance type that the description knows."""
    found: list[str] = operation("ec2", "RunInstances").input_shape.members["InstanceType"].enum
    return found
