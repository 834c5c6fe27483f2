"""The base model and the field types that the configuration is made of.

A type is a reader of `values`, the form in which it is shown, and its JSON Schema.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import pydantic
from pydantic import BeforeValidator, ConfigDict, PlainSerializer, Strict, WithJsonSchema

from provisioners.support import units
from runnerd.config import values
from runnerd.kit import secrets

#: Names of pools, forges, providers and teams become tags, metric labels and parts of machine names
#: everywhere.
NAME = re.compile(r"[a-z0-9]([a-z0-9_-]{0,38}[a-z0-9])?\Z")
#: The controller's name becomes part of host names.
DNS_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?\Z")
#: GitHub's limit of a label's length; GitLab's is the same column width.
LONGEST_LABEL = 256


class Model(pydantic.BaseModel):
    """The base of every block: frozen, and closed to unknown keys."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        populate_by_name=True,
        arbitrary_types_allowed=True,
    )


class Named(Model):
    """A block that is an entry of a map; it knows its own key."""

    name: str = pydantic.Field(default="", exclude=True)
    """The key of this entry; not written in the file."""


def _shown_secret(secret: secrets.Secret) -> str:
    return secret.reference


def _shown_database(value: str | secrets.Secret | None) -> str | None:
    return value.reference if isinstance(value, secrets.Secret) else value


_SECRET_SCHEMA = {"type": "string", "pattern": "^(file|env|credential):.+"}
_DURATION_SCHEMA = {"anyOf": [{"type": "string", "pattern": units.DURATION_PATTERN}, {"const": 0}, {"const": "0"}]}

#: A duration in seconds, written with its unit.
Duration = Annotated[
    float,
    BeforeValidator(units.duration),
    PlainSerializer(units.show_duration, return_type=str),
    WithJsonSchema(_DURATION_SCHEMA),
]


#: A duration that is not 0.
Span = Annotated[
    float,
    BeforeValidator(values.positive_duration),
    PlainSerializer(units.show_duration, return_type=str),
    WithJsonSchema({"type": "string", "pattern": units.DURATION_PATTERN}),
]
#: A size in bytes, written with its unit.
Size = Annotated[
    int,
    BeforeValidator(units.size),
    PlainSerializer(units.show_size, return_type=str),
    WithJsonSchema({"anyOf": [{"type": "string", "pattern": r"^\d+(\.\d+)? ?[A-Za-z]+$"}, {"const": 0}]}),
]
#: US dollars.
Dollars = Annotated[
    float,
    BeforeValidator(units.dollars),
    WithJsonSchema({"anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": r"^\$ ?\d"}]}),
]
#: A secret by reference.
SecretRef = Annotated[
    secrets.Secret,
    pydantic.PlainValidator(values.secret),
    PlainSerializer(_shown_secret, return_type=str),
    WithJsonSchema(_SECRET_SCHEMA),
]
#: A database URL without password, or a reference to a whole URL.
Database = Annotated[
    str | secrets.Secret | None,
    pydantic.PlainValidator(values.database_url),
    PlainSerializer(_shown_database, return_type=str | None),
    WithJsonSchema({"type": ["string", "null"]}),
]
#: A path; a relative one starts at the configuration file.
FilePath = Annotated[
    Path,
    pydantic.PlainValidator(values.path),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "minLength": 1}),
]
Flag = Annotated[bool, Strict()]
Share = Annotated[float, BeforeValidator(values.share), WithJsonSchema({"type": "number", "minimum": 0, "maximum": 1})]
_TEXTS_SCHEMA = {"type": "array", "items": {"type": "string", "minLength": 1}}
Texts = Annotated[tuple[str, ...], BeforeValidator(values.texts), WithJsonSchema(_TEXTS_SCHEMA)]
Command = Annotated[tuple[str, ...], BeforeValidator(values.command), WithJsonSchema({**_TEXTS_SCHEMA, "minItems": 1})]
MachineTypes = Annotated[
    tuple[str, ...] | dict[str, tuple[str, ...]] | None,
    pydantic.PlainValidator(values.machine_types),
    WithJsonSchema(
        {
            "anyOf": [
                _TEXTS_SCHEMA,
                {"type": "object", "additionalProperties": _TEXTS_SCHEMA},
                {"type": "null"},
            ]
        }
    ),
]
Gpu = Annotated[
    str | None,
    pydantic.PlainValidator(values.gpu),
    WithJsonSchema({"type": ["string", "null"], "examples": ["t4"]}),
]
Warm = Annotated[
    int | dict[str, int],
    pydantic.PlainValidator(values.warm),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 0},
                {"type": "object", "additionalProperties": {"type": "integer", "minimum": 0}},
            ]
        }
    ),
]
AppId = Annotated[
    int | str,
    pydantic.PlainValidator(values.app_id),
    WithJsonSchema({"type": ["integer", "string"], "minLength": 1}),
]
Number = Annotated[int, BeforeValidator(values.positive_number), WithJsonSchema({"type": "integer", "minimum": 1})]
Listening = Annotated[str, BeforeValidator(values.listen_address)]
WebUrl = Annotated[str, BeforeValidator(values.web_url), WithJsonSchema({"type": "string", "format": "uri"})]
ForgeUrl = Annotated[str, BeforeValidator(values.forge_url), WithJsonSchema({"type": "string", "format": "uri"})]
_TEXT_MAP_SCHEMA = {"type": "object", "additionalProperties": {"type": "string"}}
Tags = Annotated[dict[str, str], BeforeValidator(values.tags), WithJsonSchema(_TEXT_MAP_SCHEMA)]
Environment = Annotated[dict[str, str], BeforeValidator(values.environment), WithJsonSchema(_TEXT_MAP_SCHEMA)]


def whole(low: int, high: int) -> tuple[BeforeValidator, WithJsonSchema]:
    """Return the annotations of an int within two bounds, both included."""
    return BeforeValidator(values.whole_number(low, high)), WithJsonSchema(
        {"type": "integer", "minimum": low, "maximum": high}
    )
