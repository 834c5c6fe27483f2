"""The command line and the environment of ``cml``, read the way upstream's option parser reads them.

Options stand anywhere, ``--publishUrl`` is ``--publish-url``, ``--no-publish`` is ``--publish=false``, the
last of a repeated option counts, and each option has an environment variable (``CML_COMMENT_PUBLISH_URL``).
argparse does none of these.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import typing

from runnerd.agent.cml import failures

_TRUE = ("true", "1", "yes", "on")
_FALSE = ("false", "0", "no", "off", "")


@dataclasses.dataclass(frozen=True)
class Option:
    """One option of a command."""

    name: str
    help: str
    flag: bool = False
    #: Other names, on the command line and in the environment.
    aliases: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    hidden: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.aliases)


@dataclasses.dataclass(frozen=True)
class Command:
    """One command: its words, its options, and where its environment variables begin."""

    words: tuple[str, ...]
    #: The positional argument as help names it.
    argument: str
    help: str
    prefix: str
    options: tuple[Option, ...]
    #: The warning for an old name; empty for current names.
    deprecated: str = ""


#: Options of every command.
GLOBAL = (
    Option("log", "log level: error, warn, info, debug", choices=("error", "warn", "info", "debug")),
    Option("driver", "the forge: github or gitlab (default: by host, then by environment)"),
    Option("repo", "URL of the repository (default: the job's; outside CI, git remote origin)"),
    Option("driver-token", "token for the forge (default: REPO_TOKEN, GITHUB_TOKEN, ...)", aliases=("token",)),
    Option("help", "show this help", flag=True),
    Option("version", "show the version", flag=True, hidden=True),
)

COMMENT = (
    Option(
        "target",
        "commit, pr, auto, commit/SHA, pr/N or issue/N (default: auto, a pull request or else the commit)",
    ),
    Option("pr", "old form of --target=pr", flag=True, hidden=True),
    Option("commit-sha", "old form of --target=commit/SHA", aliases=("head-sha",), hidden=True),
    Option("watch", "keep running, and update the comment whenever the report or its files change", flag=True),
    Option("trigger-file", "with --watch: update when this file changes, then remove it", hidden=True),
    Option("publish", "upload the local files that the report refers to (default: true)", flag=True),
    Option("publish-url", "address of the asset store (default: CML_COMMENT_PUBLISH_URL or CML_ASSET_URL)"),
    Option("publish-native", "upload to the forge itself (GitLab only)", flag=True, aliases=("native",)),
    Option("update", "update the newest comment of this title instead of creating one", flag=True, hidden=True),
    Option("rm-watermark", "leave out the mark by which updates find the comment", flag=True, hidden=True),
    Option("watermark-title", "title by which updates tell reports apart; {workflow} and {run} are replaced"),
)

ASSET = (
    Option("url", "address of the asset store (default: CML_ASSET_URL)"),
    Option("md", "print markdown instead of the bare URL", flag=True),
    Option("title", "title for the markdown", aliases=("t",)),
    Option("native", "upload to the forge itself (GitLab only)", flag=True),
    Option("gitlab-uploads", "old form of --native", flag=True, hidden=True),
    Option("rm-watermark", "leave out the cml parameter of the URL", flag=True, hidden=True),
    Option("mime-type", "content type (default: by the content)"),
    Option("file", "write the result to this file instead of printing it", aliases=("f",)),
)

COMMANDS = (
    Command(("comment", "create"), "markdown file", "post a report as a comment", "CML_COMMENT", COMMENT),
    Command(("comment", "update"), "markdown file", "update the newest report, or post it", "CML_COMMENT", COMMENT),
    Command(("asset", "publish"), "asset", "upload a file and print its URL", "CML_ASSET", ASSET),
    Command(
        ("send-comment",),
        "markdown file",
        "old name of comment create",
        "CML_COMMENT",
        COMMENT,
        deprecated='"cml send-comment" is deprecated, please use "cml comment create"',
    ),
    Command(
        ("publish",),
        "asset",
        "old name of asset publish",
        "CML_ASSET",
        ASSET,
        deprecated='"cml publish" is deprecated since "cml comment" now supports "![inline](./asset.png)"',
    ),
)

#: Old prefixes of environment variables; a variable of the old form wins, as in upstream.
_OLD_PREFIXES = {"CML_PUBLISH_": "CML_ASSET_", "CML_SEND_COMMENT_": "CML_COMMENT_"}
#: Options whose ``CML_<OPTION>`` stands for every command's ``CML_<COMMAND>_<OPTION>``, and wins over it.
_COMMON = ("DRIVER", "DRIVER_TOKEN", "LOG", "REPO", "TOKEN")


@dataclasses.dataclass
class Parsed:
    """A parsed command line."""

    command: Command | None
    #: The positional arguments after the command's words.
    arguments: tuple[str, ...]
    values: dict[str, str]
    flags: dict[str, bool]

    def text(self, name: str) -> str:
        """Return an option's value; empty when it is not given."""
        return self.values.get(name, "")

    def flag(self, name: str, default: bool = False) -> bool:
        return self.flags.get(name, default)


def parse(arguments: typing.Sequence[str], env: typing.Mapping[str, str]) -> Parsed:
    """Parse a command line and its environment; raises :class:`failures.Failure` with what is wrong."""
    everything = {name: option for command in COMMANDS for option in command.options for name in option.names}
    everything.update({name: option for option in GLOBAL for name in option.names})
    words, given = _tokens(arguments, everything)
    command = find(words)
    parsed = Parsed(command, tuple(words), {}, {})
    known = {name: option for option in GLOBAL for name in option.names}
    if command is not None:
        parsed.arguments = tuple(words[len(command.words) :])
        known.update({name: option for option in command.options for name in option.names})
        for option, value, source in _environment(command, env):
            _put(parsed, option, value, source)
    for name, value in given:
        chosen = known.get(name)
        if chosen is None:
            nearest = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {_dashed(nearest[0])}?" if nearest else "see --help"
            raise failures.Failure(f"unknown option {_dashed(name)}", hint)
        _put(parsed, chosen, value, _dashed(name))
    _conflicts(parsed)
    return parsed


def find(words: typing.Sequence[str]) -> Command | None:
    """Return the command that the words begin with."""
    for command in COMMANDS:
        if tuple(words[: len(command.words)]) == command.words:
            return command
    return None


def renamed(env: typing.Mapping[str, str]) -> dict[str, str]:
    """Return the environment with old variable names under their present ones."""
    result = dict(env)
    for old, new in _OLD_PREFIXES.items():
        for name in env:
            if name.startswith(old):
                result[new + name[len(old) :]] = env[name]
    for name in _COMMON:
        if f"CML_{name}" in result:
            for command in ("ASSET", "COMMENT"):
                result[f"CML_{command}_{name}"] = result[f"CML_{name}"]
    return result


def usage(command: Command | None) -> str:
    """Return the help text of a command, or of all."""
    if command is None:
        lines = ["cml: reports of CI jobs as comments (runnerd's built-in, compatible with CML 0.20.6)", ""]
        for each in COMMANDS:
            lines.append(f"  {' '.join(('cml', *each.words)) + f' <{each.argument}>':<38}{each.help}")
        lines += ["", "cml COMMAND --help shows the options of a command."]
        return "\n".join(lines)
    lines = [f"{' '.join(('cml', *command.words))} <{command.argument}>: {command.help}", ""]
    for option in (*command.options, *GLOBAL):
        if not option.hidden:
            names = ", ".join(_dashed(name) for name in sorted(option.names, key=len))
            lines.append(f"  {names:<28}{option.help}")
    lines += ["", f"Each option is also an environment variable: {command.prefix}_<OPTION>."]
    return "\n".join(lines)


def _tokens(
    arguments: typing.Sequence[str], options: typing.Mapping[str, Option]
) -> tuple[list[str], list[tuple[str, str]]]:
    """Split a command line into words and (option, value); a flag's value is ``true`` or ``false``."""
    words: list[str] = []
    given: list[tuple[str, str]] = []
    rest = list(arguments)
    while rest:
        token = rest.pop(0)
        if token == "--":  # noqa: S105 - the end of the options
            words.extend(rest)
            break
        if not token.startswith("-") or token == "-":  # noqa: S105
            words.append(token)
            continue
        if token.startswith("--"):
            name, equals, value = token[2:].partition("=")
            name = _kebab(name)
        else:
            name, equals, value = token[1:2], "=" if len(token) > 2 else "", token[2:].removeprefix("=")
        option = options.get(name)
        if option is None and name.startswith("no-") and (negated := options.get(name[3:])) and negated.flag:
            given.append((name[3:], "false"))
        elif option is None or equals:
            given.append((name, value))
        elif option.flag:
            given.append((name, rest.pop(0) if rest and rest[0] in ("true", "false") else "true"))
        elif rest and not _is_option(rest[0]):
            given.append((name, rest.pop(0)))
        else:
            raise failures.Failure(f"{_dashed(name)} needs a value", f"write {_dashed(name)}=VALUE")
    return words, given


def _is_option(token: str) -> bool:
    return token.startswith("-") and token != "-"  # noqa: S105


def _environment(command: Command, env: typing.Mapping[str, str]) -> typing.Iterator[tuple[Option, str, str]]:
    for option in (*command.options, *GLOBAL):
        if option.name in ("help", "version"):
            continue
        # The main name last, so that it wins over its aliases when a workflow sets both.
        for name in reversed(option.names):
            variable = f"{command.prefix}_{name.upper().replace('-', '_')}"
            if env.get(variable, "") != "":
                yield option, env[variable], variable


def _put(parsed: Parsed, option: Option, value: str, source: str) -> None:
    if option.flag:
        lowered = value.strip().lower()
        if lowered not in _TRUE + _FALSE:
            raise failures.Failure(f"{source} is {value!r}", "write true or false")
        parsed.flags[option.name] = lowered in _TRUE
        return
    if option.choices and value not in option.choices:
        raise failures.Failure(f"{source} is {value!r}", f"write one of {', '.join(option.choices)}")
    parsed.values[option.name] = value


def _conflicts(parsed: Parsed) -> None:
    given = [name for name in ("target", "commit-sha") if parsed.text(name)]
    given += ["pr"] if parsed.flag("pr") else []
    if len(given) > 1:
        raise failures.Failure(f"{' and '.join(_dashed(name) for name in given)} exclude each other", "keep --target")
    if parsed.text("watermark-title") and parsed.flag("rm-watermark"):
        raise failures.Failure("--watermark-title and --rm-watermark exclude each other", "drop one of them")


def _kebab(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])([A-Z])", lambda found: "-" + found.group(1).lower(), name)


def _dashed(name: str) -> str:
    return f"-{name}" if len(name) == 1 else f"--{name}"
