"""A YAML file as plain data that remembers where each key stands.

Reads what a configuration needs and refuses the rest, with the place: duplicate keys, tags, anchors and
merge keys (`defaults` is the only inheritance), more than one document. Plain words stay words: `yes`,
`on`, `12:30` and `2026-01-01` are text; only `true`, `false`, `null` and numbers as YAML 1.2 has them are
something else. No object is ever constructed from a file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from runnerd import errors

#: A key path: map keys and list indexes from the top.
Place = tuple[str | int, ...]

#: The largest file, in bytes.
LARGEST_BYTES = 2 * 2**20
#: The deepest nesting; no configuration needs more.
DEEPEST = 40

_INT = re.compile(r"[-+]?(?:0|[1-9]\d{0,17})\Z", re.ASCII)
_FLOAT = re.compile(r"[-+]?(?:\d{1,18}\.\d{0,18}|\.\d{1,18}|\d{1,18}(?:\.\d{0,18})?[eE][-+]?\d{1,3})\Z", re.ASCII)
_WORDS: dict[str, bool | None] = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
}  # fmt: skip
_STANDARD_TAG = "tag:yaml.org,2002:"


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a file, line and column from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Document:
    """The data of a file and where each part of it stands."""

    #: The file as the operator named it.
    file: str
    data: dict[str, Any]
    #: The position of the key (or list entry) of a path.
    keys: dict[Place, Position] = field(default_factory=dict)
    #: The position of the value of a path.
    values: dict[Place, Position] = field(default_factory=dict)

    def position(self, place: Sequence[str | int]) -> Position:
        """Return the position of a path: of its key, or of the nearest block above that the file has."""
        path = tuple(place)
        while path and path not in self.keys:
            path = path[:-1]
        # Data that came from no file has no lines.
        return self.keys.get(path, Position(1, 1) if self.keys else Position(0, 0))

    def problem(self, place: Sequence[str | int], message: str, *, nearest: str | None = None) -> errors.Problem:
        """Return a problem at a path of this file."""
        at = self.position(place)
        return errors.Problem(self.file, at.line, at.column, dotted(place), message, nearest)


def dotted(place: Sequence[str | int]) -> str:
    """Return a path as people read it: `pools.gpu-t4.labels[0]`; keys with dots or blanks are quoted."""
    text = ""
    for part in place:
        if isinstance(part, int):
            text += f"[{part}]"
            continue
        shown = part if re.fullmatch(r"[\w@/*+-]+", part) else f'"{part}"'
        text += f".{shown}" if text else shown
    return text


def read(path: Path) -> Document:
    """Read a file. Raises errors.ConfigInvalid with every problem found, each with line and column."""
    name = str(path)
    try:
        with path.open("rb") as file:
            raw = file.read(LARGEST_BYTES + 1)
    except OSError as error:
        problem = errors.Problem(name, 0, 0, "", f"cannot be read: {error.strerror or error}")
        raise errors.ConfigInvalid([problem]) from error
    if len(raw) > LARGEST_BYTES:
        raise errors.ConfigInvalid([errors.Problem(name, 0, 0, "", f"is larger than {LARGEST_BYTES} bytes")])
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        column = error.start - raw.rfind(b"\n", 0, error.start)
        raise errors.ConfigInvalid([errors.Problem(name, line, column, "", "is not UTF-8 text here")]) from None
    return parse(text, file=name)


def parse(text: str, *, file: str = "<text>") -> Document:
    """Read a text. Raises errors.ConfigInvalid with every problem found, each with line and column."""
    reader = _Reader(file)
    try:
        # The base loader leaves every scalar a text: what a word means is decided below, by YAML 1.2.
        refuse_marks(text)
        node = yaml.compose(text, Loader=yaml.BaseLoader)
    except MarkError as error:
        raise errors.ConfigInvalid([errors.Problem(file, error.line, error.column, "", str(error))]) from None
    except yaml.MarkedYAMLError as error:
        raise errors.ConfigInvalid([_syntax(file, error)]) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise errors.ConfigInvalid([errors.Problem(file, line, 0, "", "a control character; remove it")]) from None
    except RecursionError:
        raise errors.ConfigInvalid([errors.Problem(file, 0, 0, "", "is nested too deeply")]) from None
    if node is None:
        raise errors.ConfigInvalid([errors.Problem(file, 0, 0, "", "is empty")])
    if not isinstance(node, yaml.MappingNode):
        raise errors.ConfigInvalid([_problem(file, node, (), "expected keys and values at the top")])
    data = reader.value(node, ())
    if reader.problems:
        raise errors.ConfigInvalid(reader.problems)
    assert isinstance(data, dict)  # a MappingNode gives a dict
    return Document(file, data, reader.keys, reader.values)


class MarkError(Exception):
    """The text uses a feature of YAML that is not supported."""

    def __init__(self, message: str, line: int, column: int) -> None:
        super().__init__(message)
        self.line = line
        self.column = column


class _Reader:
    """Turns nodes into data, keeps positions and collects problems."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.keys: dict[Place, Position] = {}
        self.values: dict[Place, Position] = {}
        self.problems: list[errors.Problem] = []

    def value(self, node: yaml.Node, place: Place) -> Any:
        """Return the data of a node. Problems are noted, and the walk goes on."""
        self.values[place] = _position(node)
        if len(place) > DEEPEST:
            self._note(node, place, "is nested too deeply")
            return None
        if isinstance(node, yaml.ScalarNode):
            return _scalar(node)
        if isinstance(node, yaml.SequenceNode):
            return [self._item(item, (*place, index)) for index, item in enumerate(node.value)]
        assert isinstance(node, yaml.MappingNode)  # YAML has no fourth kind of node
        return self._mapping(node, place)

    def _item(self, node: yaml.Node, place: Place) -> Any:
        self.keys[place] = _position(node)
        return self.value(node, place)

    def _mapping(self, node: yaml.MappingNode, place: Place) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self._note(key_node, place, "a key must be a word")
                continue
            key = str(key_node.value)
            inside = (*place, key)
            if key == "<<" and key_node.style is None:
                self._note(key_node, inside, "merge keys (<<) are not supported; write the values out or use defaults")
                continue
            if not key:
                self._note(key_node, place, "a key is empty")
                continue
            if key in data:
                first = self.keys[inside]
                self._note(key_node, inside, f"duplicate key; the first is on line {first.line}")
                continue
            self.keys[inside] = _position(key_node)
            data[key] = self.value(value_node, inside)
        return data

    def _note(self, node: yaml.Node, place: Place, message: str) -> None:
        self.problems.append(_problem(self.file, node, place, message))


def refuse_marks(text: str) -> None:
    """Stop at the first anchor, alias or tag, before anything is composed: a few lines of aliases unfold to
    gigabytes.

    Raises MarkError with the place.
    """
    for event in yaml.parse(text, Loader=yaml.BaseLoader):
        message = ""
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            message = "anchors and aliases (& and *) are not supported; write the value out or use defaults"
        elif tag := getattr(event, "tag", None):
            message = f"the tag {_shown_tag(tag)} is not supported; write the plain value"
        if message:
            mark = event.start_mark
            line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
            raise MarkError(message, line, column)


def _scalar(node: yaml.ScalarNode) -> str | int | float | bool | None:
    text = str(node.value)
    if node.style is not None:
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _INT.match(text):
        return int(text)
    if _FLOAT.match(text) and math.isfinite(found := float(text)):
        return found
    return text


def _position(node: yaml.Node) -> Position:
    return Position(node.start_mark.line + 1, node.start_mark.column + 1)


def _problem(file: str, node: yaml.Node, place: Place, message: str) -> errors.Problem:
    at = _position(node)
    return errors.Problem(file, at.line, at.column, dotted(place), message)


def _shown_tag(tag: str) -> str:
    return "!!" + tag.removeprefix(_STANDARD_TAG) if tag.startswith(_STANDARD_TAG) else tag


def _syntax(file: str, error: yaml.MarkedYAMLError) -> errors.Problem:
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
    message = error.problem or error.context or "is not YAML"
    hints = {
        "found character '\\t' that cannot start any token": "a tab character; indent with spaces",
        "mapping values are not allowed here": "a colon too many, or wrong indentation",
        "but found another document": "a second document begins here (---); one file holds one",
    }
    return errors.Problem(file, line, column, "", hints.get(message, message))
