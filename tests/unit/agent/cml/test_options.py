"""Command lines and environments are understood as upstream's option parser does."""

from __future__ import annotations

import pytest

from runnerd.agent.cml import failures, options


def parse(line: str, **env: str) -> options.Parsed:
    return options.parse(line.split(), options.renamed(env))


@pytest.mark.parametrize(
    "line",
    [
        "comment create --publish-url=U report.md",
        "comment create --publish-url U report.md",
        "comment create report.md --publishUrl U",
        "--publish-url U comment create report.md",
        "comment --publish-url X create report.md --publish-url U",
    ],
)
def test_an_option_stands_anywhere_and_the_last_one_counts(line: str) -> None:
    parsed = parse(line)
    assert parsed.command is not None
    assert parsed.command.words == ("comment", "create")
    assert parsed.arguments == ("report.md",)
    assert parsed.text("publish-url") == "U"


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ("--publish", True),
        ("--publish=true", True),
        ("--publish=false", False),
        ("--publish false", False),
        ("--no-publish", False),
        ("", True),
    ],
)
def test_flags_take_the_forms_that_upstream_takes(given: str, value: bool) -> None:
    parsed = parse(f"comment create {given} report.md")
    assert parsed.flag("publish", True) is value
    assert parsed.arguments == ("report.md",)


def test_a_flag_does_not_swallow_the_file() -> None:
    assert parse("comment create --native report.md").arguments == ("report.md",)


def test_two_dashes_end_the_options() -> None:
    assert parse("asset publish -- --odd.png").arguments == ("--odd.png",)


@pytest.mark.parametrize("given", ["-t T", "-tT", "-t=T", "--title T", "--title=T"])
def test_short_names_work(given: str) -> None:
    assert parse(f"publish {given} x.png").text("title") == "T"


@pytest.mark.parametrize(
    ("name", "command", "option"),
    [
        ("CML_COMMENT_PUBLISH_URL", "comment create", "publish-url"),
        ("CML_COMMENT_TARGET", "send-comment", "target"),
        ("CML_SEND_COMMENT_TARGET", "comment update", "target"),
        ("CML_ASSET_URL", "asset publish", "url"),
        ("CML_PUBLISH_URL", "publish", "url"),
        ("CML_ASSET_MIME_TYPE", "asset publish", "mime-type"),
        ("CML_REPO", "comment create", "repo"),
        ("CML_TOKEN", "comment create", "driver-token"),
        ("CML_DRIVER_TOKEN", "publish", "driver-token"),
        ("CML_COMMENT_TOKEN", "comment create", "driver-token"),
        ("CML_COMMENT_HEAD_SHA", "comment create", "commit-sha"),
        ("CML_ASSET_REPO", "asset publish", "repo"),
    ],
)
def test_each_option_is_an_environment_variable(name: str, command: str, option: str) -> None:
    assert parse(f"{command} x.md", **{name: "V"}).text(option) == "V"


def test_an_environment_flag_may_be_one_or_true() -> None:
    assert parse("comment create x.md", CML_COMMENT_NATIVE="1").flag("publish-native")
    assert not parse("comment create x.md", CML_COMMENT_PUBLISH="false").flag("publish", True)


def test_precedence_is_command_line_then_common_then_own_variable() -> None:
    env = {"CML_TOKEN": "common", "CML_COMMENT_TOKEN": "own"}
    assert parse("comment create x.md", **env).text("driver-token") == "common"
    assert parse("comment create --token given x.md", **env).text("driver-token") == "given"


def test_an_options_own_variable_wins_over_that_of_its_alias() -> None:
    env = {"CML_COMMENT_TOKEN": "alias", "CML_COMMENT_DRIVER_TOKEN": "own"}
    assert parse("comment create x.md", **env).text("driver-token") == "own"


def test_the_old_variable_wins_over_the_new_one() -> None:
    parsed = parse("asset publish x.png", CML_PUBLISH_URL="old", CML_ASSET_URL="new")
    assert parsed.text("url") == "old"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("comment create --publsh x.md", "did you mean --publish"),
        ("comment create --mime-type a/b x.md", "unknown option --mime-type"),
        ("comment create --target", "--target needs a value"),
        ("comment create --target --native x.md", "--target needs a value"),
        ("comment create --native=maybe x.md", "write true or false"),
        ("comment create --log loud x.md", "write one of error, warn, info, debug"),
        ("comment create --pr --target=commit x.md", "exclude each other"),
        ("comment create --pr --commit-sha=abc x.md", "exclude each other"),
        ("comment create --rm-watermark --watermark-title t x.md", "exclude each other"),
    ],
)
def test_what_is_wrong_is_said_plainly(line: str, said: str) -> None:
    with pytest.raises(failures.Failure) as raised:
        parse(line)
    assert said in str(raised.value)


def test_help_lists_every_option_that_is_not_hidden() -> None:
    for command in options.COMMANDS:
        text = options.usage(command)
        for option in command.options:
            assert (f"--{option.name}" in text) is not option.hidden
