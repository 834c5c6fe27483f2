"""Finding and rewriting what a report points to."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from runnerd.agent.cml import markdown

DOCUMENTS = [
    pytest.param("![](a.png)", ["a.png"], id="image"),
    pytest.param('![alt text](a.png "A title")', ["a.png"], id="image with title"),
    pytest.param("[text](b.csv 'single')", ["b.csv"], id="link with single quotes"),
    pytest.param("[text](b.csv (round))", ["b.csv"], id="link with round title"),
    pytest.param("![](<my plot.png>)", ["my plot.png"], id="spaces in angle brackets"),
    pytest.param("![](my plot.png)", [], id="spaces without angle brackets are no image"),
    pytest.param("![](a(1).png)", ["a(1).png"], id="balanced parentheses"),
    pytest.param(r"![](a\(1.png)", ["a(1.png"], id="escaped parenthesis"),
    pytest.param("![](a&amp;b.png)", ["a&b.png"], id="entity"),
    pytest.param("[![alt](in.png)](out.html)", ["in.png", "out.html"], id="image in a link"),
    pytest.param("text ![](a.png) and ![](b.png).", ["a.png", "b.png"], id="two on a line"),
    pytest.param("| a | b |\n|---|---|\n| ![](a.png) | ![](b.png) |", ["a.png", "b.png"], id="table"),
    pytest.param("`![](a.png)` ![](b.png)", ["b.png"], id="code span"),
    pytest.param("``x ` ![](a.png)`` ![](b.png)", ["b.png"], id="code span of two ticks"),
    pytest.param("` ![](a.png)", ["a.png"], id="a lone tick opens nothing"),
    pytest.param("```\n![](a.png)\n```\n![](b.png)", ["b.png"], id="fence"),
    pytest.param("~~~ sh\n![](a.png)\n```\n~~~\n![](b.png)", ["b.png"], id="fence of tildes"),
    pytest.param("````\n```\n![](a.png)\n````\n![](b.png)", ["b.png"], id="longer fence"),
    pytest.param("- x\n\n  ```\n  ![](a.png)\n  ```\n\n![](b.png)", ["b.png"], id="fence in a list"),
    pytest.param("> ```\n> ![](a.png)\n> ```\n\n![](b.png)", ["b.png"], id="fence in a quotation"),
    pytest.param("text\n\n    ![](a.png)\n\n![](b.png)", ["b.png"], id="indented code"),
    pytest.param("1. x\n\n    ![](a.png)", ["a.png"], id="indented in a list is no code"),
    pytest.param("text\n    ![](a.png)", ["a.png"], id="indented continuation is no code"),
    pytest.param("<!-- ![](a.png)\n\n![](c.png) -->\n\n![](b.png)", ["b.png"], id="comment"),
    pytest.param("x <!-- ![](a.png) --> ![](b.png)", ["b.png"], id="inline comment"),
    pytest.param('<img src="a.png">\n\n![](b.png)', ["b.png"], id="img is left alone"),
    pytest.param(
        "<details>\n![](a.png)\n\n![](b.png)\n\n</details>", ["b.png"], id="markdown in HTML needs a blank line"
    ),
    pytest.param("<pre>\n![](a.png)\n\n![](c.png)\n</pre>\n![](b.png)", ["b.png"], id="pre lasts until it is closed"),
    pytest.param("![x][fig]\n\n[fig]: a.png 'title'", ["a.png"], id="definition"),
    pytest.param("[fig]: <my plot.png>\n[two]: b.png", ["my plot.png", "b.png"], id="definitions in a row"),
    pytest.param("[fig]:\n  a.png", ["a.png"], id="definition on the next line"),
    pytest.param("[fig]: a.png and more", [], id="text after a definition"),
    pytest.param("> [fig]: a.png", ["a.png"], id="definition in a quotation"),
    pytest.param(r"\![](a.png)", ["a.png"], id="escaped exclamation mark leaves a link"),
    pytest.param(r"\[x](a.png)", [], id="escaped bracket"),
    pytest.param("[x] (a.png)", [], id="space before the parenthesis"),
    pytest.param("![](data:image/png;base64,AAAA)", ["data:image/png;base64,AAAA"], id="embedded"),
    pytest.param("![]()", [], id="empty destination"),
    pytest.param("![](\n  a.png\n  'title'\n)", ["a.png"], id="over several lines"),
    pytest.param("# Title ![](a.png)\n\n* item [x](b.txt)", ["a.png", "b.txt"], id="heading and item"),
]


@pytest.mark.parametrize(("text", "urls"), DOCUMENTS)
def test_finds_what_points_somewhere(text: str, urls: list[str]) -> None:
    assert [found.url for found in markdown.references(text)] == urls


@pytest.mark.parametrize(("text", "urls"), DOCUMENTS)
def test_an_independent_parser_agrees(text: str, urls: list[str]) -> None:
    assert _by_another_parser(text) == set(urls)


@given(st.lists(st.sampled_from([document.values[0] for document in DOCUMENTS[:20]]), min_size=1, max_size=5))
@settings(max_examples=60, deadline=None)
def test_documents_put_together_are_understood_as_by_an_independent_parser(parts: list[str]) -> None:
    # A heading between them ends whatever list or paragraph came before.
    text = "\n\n# next\n\n".join(str(part) for part in parts if part != "` ![](a.png)")
    assert {found.url for found in markdown.references(text)} == _by_another_parser(text)


def _by_another_parser(text: str) -> set[str]:
    parser = MarkdownIt("commonmark")
    parser.normalizeLink = lambda url: url  # type: ignore[method-assign]
    parser.validateLink = lambda url: True  # type: ignore[method-assign]
    env: dict[str, dict[str, dict[str, str]]] = {}
    found: set[str] = set()
    queue = list(parser.parse(text, env))
    while queue:
        token = queue.pop()
        queue.extend(token.children or [])
        found.update(str(token.attrs[name]) for name in ("href", "src") if token.attrs.get(name))
    found.update(reference["href"] for reference in env.get("references", {}).values())
    return found


def test_kinds_and_titles_are_told() -> None:
    found = markdown.references('![a](x.png "one")\n[b](y.csv)\n\n[c]: z.txt (three)\n')
    assert [(each.kind.value, each.title) for each in found] == [
        ("image", "one"),
        ("link", ""),
        ("definition", "three"),
    ]


def test_rewriting_changes_nothing_but_destinations() -> None:
    text = 'a_b * c\t\n\n\n![x](<my plot.png> "t")  \n- [y](b.csv)\r\n[z]: c.txt\n'
    found = {each.url: each for each in markdown.references(text)}
    changed = markdown.rewrite(text, {found["my plot.png"]: "https://a/1?x=1&y=2", found["b.csv"]: "https://a/2"})
    assert changed == 'a_b * c\t\n\n\n![x](https://a/1?x=1&y=2 "t")  \n- [y](https://a/2)\r\n[z]: c.txt\n'


def test_a_new_address_with_parentheses_stays_a_destination() -> None:
    text = "![x](a.png)"
    changed = markdown.rewrite(text, {markdown.references(text)[0]: "/uploads/1/a b(1.png"})
    assert [found.url for found in markdown.references(changed)] == ["/uploads/1/a b(1.png"]


@given(st.text(alphabet="[]()!<>\\`\"' \n:a#->*&;", max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_text_is_read_without_failing_and_rewrites_to_itself(text: str) -> None:
    found = markdown.references(text)
    assert all(0 <= each.start < each.end <= len(text) for each in found)
    assert all(first.end <= second.start for first, second in itertools.pairwise(found))
    assert markdown.rewrite(text, {}) == text


def test_a_large_report_is_read_in_linear_time() -> None:
    text = "![" * 20_000 + "\nx " + "`` " * 5_000 + "`\n\n" + "![](a.png)\n\n" * 2_000
    assert len(markdown.references(text)) == 2_000
