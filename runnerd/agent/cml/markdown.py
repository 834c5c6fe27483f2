"""The links, images and reference definitions of a report: parsing, and rewriting of their destinations.

Only destinations are replaced; everything else of the text stays byte for byte as its author wrote it
(upstream prints the whole document anew from its syntax tree). Code, comments and HTML are not looked into:
an ``<img>`` is left alone, as upstream does. This is the part of CommonMark 0.31 that reports need, not a
renderer.
"""

from __future__ import annotations

import dataclasses
import enum
import html
import re
import typing


class Kind(enum.Enum):
    """The kinds of references."""

    #: ``![alt](destination "title")``
    IMAGE = "image"
    #: ``[text](destination "title")``
    LINK = "link"
    #: ``[label]: destination "title"``
    DEFINITION = "definition"


@dataclasses.dataclass(frozen=True)
class Reference:
    """One reference in a document."""

    kind: Kind
    #: Its destination, with escapes and entities resolved.
    url: str
    title: str
    #: The half-open range of the document that holds the destination, angle brackets included.
    start: int
    end: int


_FENCE = re.compile(r" {0,3}(`{3,}(?=[^`]*$)|~{3,})")
_LIST_ITEM = re.compile(r" {0,3}(?:[-+*]|\d{1,9}[.)])(?:\s|$)")
_CONTAINER = re.compile(r"(?:\s*(?:>|[-+*](?=\s)|\d{1,9}[.)](?=\s)))*\s?")
_ESCAPE = re.compile(r"\\([!-/:-@\[-`{-~])")
_TICKS = re.compile(r"`+")
_HTML_RAW = re.compile(r" {0,3}<(script|pre|style|textarea)(?=[\s>]|$)", re.IGNORECASE)
_HTML_BLOCK = re.compile(
    r" {0,3}</?(?:address|article|aside|base|basefont|blockquote|body|caption|center|col|colgroup|dd|details|dialog|"
    r"dir|div|dl|dt|fieldset|figcaption|figure|footer|form|frame|frameset|h[1-6]|head|header|hr|html|iframe|legend|li|"
    r"link|main|menu|menuitem|nav|noframes|ol|optgroup|option|p|param|search|section|summary|table|tbody|td|tfoot|th|thead|"
    r"title|tr|track|ul)(?=[\s/>]|$)",
    re.IGNORECASE,
)
_DEFINITION = re.compile(r"(?:\s{0,3}>)*[ ]{0,3}\[(?!\^)(?:[^\[\]\\]|\\.)+\]:[ \t]*\n?[ \t]*")
_SPACE = " \t\r\n"


def references(text: str) -> list[Reference]:
    """List the references, in the order of the document."""
    found: list[Reference] = []
    for start, end in _prose(text):
        definitions = list(_definitions(text, start, end))
        # A link inside of a definition does not count.
        taken = {definition.start for definition in definitions}
        found.extend(definitions)
        found.extend(inline for inline in _inlines(text, start, end) if inline.start not in taken)
    return sorted(found, key=lambda reference: reference.start)


def rewrite(text: str, replacements: typing.Mapping[Reference, str]) -> str:
    """Return the text with the destination of each given reference replaced."""
    pieces = []
    position = 0
    for reference in sorted(replacements, key=lambda reference: reference.start):
        url = replacements[reference]
        if any(letter in url for letter in " ()<>"):
            url = "<" + url.replace("<", "%3C").replace(">", "%3E") + ">"
        pieces += [text[position : reference.start], url]
        position = reference.end
    return "".join(pieces) + text[position:]


def _prose(text: str) -> typing.Iterator[tuple[int, int]]:
    """Yield the ranges of consecutive lines that are neither blank, nor code, nor HTML."""
    begin: int | None = None
    fence = ""
    html_end: typing.Pattern[str] | None = None
    in_list = after_blank = False
    position = 0
    # The newline alone ends a line here: splitlines() would also split at form feeds and the like.
    for line in re.findall(r"[^\n]*\n|[^\n]+", text):
        start, position = position, position + len(line)
        blank = not line.strip()
        bare = _CONTAINER.sub("", line, count=1) if not blank else ""
        prose = False
        if fence:
            if re.fullmatch(rf"\s*{re.escape(fence[0])}{{{len(fence)},}}\s*", bare or line):
                fence = ""
        elif html_end is not None:
            if html_end.search(line):
                html_end = None
        elif opened := _FENCE.match(line) or _FENCE.match(bare):
            fence = opened.group(1)
        elif raw := _HTML_RAW.match(line):
            html_end = _unless_closed(line[raw.end() :], rf"</{raw.group(1)}>")
        elif line.lstrip().startswith("<!--") and begin is None:
            html_end = _unless_closed(line, "-->")
        elif _HTML_BLOCK.match(line):
            html_end = re.compile(r"^\s*$")
        elif not blank and not (
            # Indented code; inside of a list, an indented line continues the item.
            begin is None and after_blank and not in_list and re.match(r" {4}| {0,3}\t", line)
        ):
            prose = True
            if _LIST_ITEM.match(line):
                in_list = True
            elif after_blank and not line[0].isspace():
                in_list = False
        if prose and begin is None:
            begin = start
        elif not prose and begin is not None:
            yield begin, start
            begin = None
        after_blank = blank or (after_blank and not prose)
    if begin is not None:
        yield begin, position


def _unless_closed(rest: str, closing: str) -> typing.Pattern[str] | None:
    pattern = re.compile(closing, re.IGNORECASE)
    return None if pattern.search(rest) else pattern


def _definitions(text: str, start: int, end: int) -> typing.Iterator[Reference]:
    position = start
    while position < end:
        opened = _DEFINITION.match(text, position, end)
        if opened is None:
            following = text.find("\n", position, end)
            if following < 0:
                return
            position = following + 1
            continue
        parsed = _destination(text, opened.end(), end)
        if parsed is not None:
            url, first, last = parsed
            title, after = _title(text, last, end)
            line_end = text.find("\n", after, end)
            line_end = end if line_end < 0 else line_end
            if url and not text[after:line_end].strip():
                yield Reference(Kind.DEFINITION, url, title, first, last)
                position = min(line_end + 1, end)
                continue
        position = opened.end()


def _inlines(text: str, start: int, end: int) -> typing.Iterator[Reference]:
    opened: list[tuple[int, Kind]] = []
    position = start
    while position < end:
        letter = text[position]
        if letter == "\\":
            position += 2
        elif letter == "`":
            run = _TICKS.match(text, position, end)
            assert run is not None
            closing = _closing_ticks(text, run.end(), end, len(run.group()))
            position = run.end() if closing is None else closing
        elif text.startswith("<!--", position):
            closed = text.find("-->", position, end)
            position = position + 4 if closed < 0 else closed + 3
        elif letter == "!" and text.startswith("[", position + 1):
            opened.append((position, Kind.IMAGE))
            position += 2
        elif letter == "[":
            opened.append((position, Kind.LINK))
            position += 1
        elif letter == "]" and opened:
            _, kind = opened.pop()
            inside = _inside(text, position + 1, end)
            if inside is None:
                position += 1
                continue
            url, title, first, last, after = inside
            if url:
                yield Reference(kind, url, title, first, last)
            position = after
        else:
            position += 1


def _closing_ticks(text: str, start: int, end: int, length: int) -> int | None:
    for run in _TICKS.finditer(text, start, end):
        if len(run.group()) == length:
            return run.end()
    return None


def _inside(text: str, position: int, end: int) -> tuple[str, str, int, int, int] | None:
    """Parse ``(destination "title")`` and return url, title, the range of the destination, and where it
    ends."""
    if not text.startswith("(", position):
        return None
    parsed = _destination(text, _skip_space(text, position + 1, end), end)
    if parsed is None:
        return None
    url, first, last = parsed
    title, after = _title(text, last, end)
    after = _skip_space(text, after, end)
    if after >= end or text[after] != ")":
        return None
    return url, title, first, last, after + 1


def _destination(text: str, start: int, end: int) -> tuple[str, int, int] | None:
    if start >= end:
        return None
    if text[start] == "<":
        position = start + 1
        while position < end and text[position] not in "<>\n":
            position += 2 if text[position] == "\\" else 1
        if position >= end or text[position] != ">":
            return None
        return _resolved(text[start + 1 : position]), start, position + 1
    depth = 0
    position = start
    while position < end:
        letter = text[position]
        if letter <= " " or letter == "\x7f":
            break
        if letter == "\\" and position + 1 < end and text[position + 1] > " ":
            position += 2
            continue
        if letter == "(":
            depth += 1
        elif letter == ")":
            if depth == 0:
                break
            depth -= 1
        position += 1
    if depth:
        return None
    position = min(position, end)
    return _resolved(text[start:position]), start, position


def _title(text: str, position: int, end: int) -> tuple[str, int]:
    """Parse an optional title after a destination; without one, return the position as it was."""
    start = _skip_space(text, position, end)
    if start == position or start >= end or text[start] not in "\"'(":
        return "", position
    closing = ")" if text[start] == "(" else text[start]
    here = start + 1
    while here < end and text[here] != closing:
        here += 2 if text[here] == "\\" else 1
    if here >= end:
        return "", position
    return _resolved(text[start + 1 : here]), here + 1


def _skip_space(text: str, position: int, end: int) -> int:
    while position < end and text[position] in _SPACE:
        position += 1
    return position


def _resolved(raw: str) -> str:
    # A data: address is long and has neither escapes nor entities; looking for them would only cost time.
    if raw.startswith("data:"):
        return raw
    return html.unescape(_ESCAPE.sub(r"\1", raw))
