"""The language of the code: docstrings open with a verb or a noun, and some words stay out of the text."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.tree import ROOT

TREES = ("runnerd", "provisioners")

#: Folders and modules that still have to be reworded. Shrink this list; add nothing to it.
EXEMPT: frozenset[str] = frozenset()

#: A docstring says what a thing is or does; it opens with no question.
QUESTIONS = frozenset({"what", "who", "whose", "whether", "how", "why", "where", "when"})
#: Words that read as translated where they stand for code, data or an operator.
AVOIDED = re.compile(r"\b(nobody|whoever|somebody|whatever|told)\b", re.IGNORECASE)
#: So many of these words are allowed in 1,000 lines of a tree.
ALLOWED_PER_1000_LINES = 0.5


def sources(tree: str) -> list[Path]:
    """Return the modules of a tree that are not exempt."""
    paths = sorted((ROOT / tree).rglob("*.py"))
    return [path for path in paths if not any(path == ROOT / name or ROOT / name in path.parents for name in EXEMPT)]


def docstrings(text: str) -> Iterator[tuple[int, str]]:
    """Yield line and text of the docstrings of a module, its classes and its functions."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node)
            if docstring:
                yield node.body[0].lineno, docstring


def opens_with_a_question(docstring: str) -> bool:
    first = re.match(r"[A-Za-z]+", docstring)
    return first is not None and first[0].lower() in QUESTIONS


def prose(text: str) -> Iterator[tuple[int, str]]:
    """Yield line and text of each comment and string of a module."""
    middle = getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING, middle):
            yield token.start[0], token.string


@pytest.mark.parametrize("tree", TREES)
def test_no_docstring_opens_with_a_question(tree: str) -> None:
    questions = [
        f"{path.relative_to(ROOT)}:{line}: {docstring.splitlines()[0]}"
        for path in sources(tree)
        for line, docstring in docstrings(path.read_text())
        if opens_with_a_question(docstring)
    ]
    assert not questions, "open with a verb (Return, Create, Check, Raise) or a noun phrase:\n" + "\n".join(questions)


@pytest.mark.parametrize("tree", TREES)
def test_words_that_read_as_translated_are_rare(tree: str) -> None:
    texts = {path: path.read_text() for path in sources(tree)}
    found = [
        f"{path.relative_to(ROOT)}:{line}: {match[0]}"
        for path, text in texts.items()
        for line, string in prose(text)
        for match in AVOIDED.finditer(string)
    ]
    allowed = ALLOWED_PER_1000_LINES * sum(text.count("\n") for text in texts.values()) / 1000
    assert len(found) <= allowed, f"{len(found)} where {allowed:.1f} are allowed:\n" + "\n".join(found)


@pytest.mark.parametrize("name", sorted(EXEMPT) or [pytest.param("", id="none")])
def test_every_exemption_names_what_is_there(name: str) -> None:
    assert (ROOT / name).exists()


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ("Whether it is on.", True),
        ("What: a thing.", True),
        ("Why, in one word.", True),
        ("Whenever it is on, return it.", False),
        ("Return what it holds.", False),
        ("``when`` in seconds.", False),
    ],
)
def test_a_question_is_known_by_its_first_word(text: str, question: bool) -> None:
    assert opens_with_a_question(text) == question


def test_docstrings_of_modules_classes_and_functions_are_read() -> None:
    text = '"""One."""\nclass A:\n    """Two."""\n    async def f(self):\n        """Three."""\n'
    assert [docstring for _, docstring in docstrings(text)] == ["One.", "Two.", "Three."]


def test_comments_and_strings_are_read_and_names_are_not() -> None:
    text = 'told = 1  # nobody\nx = f"whoever {told}"\n'
    assert [match[0] for _, string in prose(text) for match in AVOIDED.finditer(string)][:2] == ["nobody", "whoever"]
