"""The documents say what the code says: drawings, names, files, layers."""

from __future__ import annotations

import configparser
import enum
import importlib
import re

import pytest

from runnerd import model
from tests.support.tree import ROOT

TEXT = (ROOT / "docs" / "architecture.md").read_text()
#: The pages that are held to their word here.
PAGES = (
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "changelog.d/README.md",
    "docs/index.md",
    "docs/glossary.md",
    "docs/architecture.md",
    "docs/dependencies.md",
    "docs/security.md",
    "docs/limits.md",
)
CYCLES: dict[type[enum.StrEnum], object] = {
    model.InstanceState: model.INSTANCE_TRANSITIONS,
    model.AttemptState: model.ATTEMPT_TRANSITIONS,
    model.RegistrationState: model.REGISTRATION_TRANSITIONS,
}


def drawn(name: str) -> list[tuple[str, str]]:
    found = re.search(rf"<!-- life cycle: {name} -->\n```mermaid\nstateDiagram-v2\n(.*?)```", TEXT, re.DOTALL)
    assert found, f"docs/architecture.md has no drawing of {name}"
    return [
        (match[1], match[2])
        for line in found[1].splitlines()
        if (match := re.fullmatch(r" +(\S+) --> (\S+?)(: .+)?", line))
    ]


def edges(states: type[enum.StrEnum]) -> list[tuple[str, str]]:
    table = CYCLES[states]
    assert hasattr(table, "items")
    first = next(iter(states)).value
    inner = [(old.value, new.value) for old, news in table.items() for new in states if new in news]
    ends = [(old.value, "[*]") for old, news in table.items() if not news]
    return [("[*]", first), *inner, *ends]


@pytest.mark.parametrize("states", CYCLES, ids=lambda states: states.__name__)
def test_every_drawing_has_the_edges_of_its_table_each_once(states: type[enum.StrEnum]) -> None:
    right = "\n".join(f"    {old} --> {new}" for old, new in edges(states))
    assert sorted(drawn(states.__name__)) == sorted(edges(states)), f"the right drawing of {states.__name__}:\n{right}"


def layers() -> list[list[str]]:
    settings = configparser.ConfigParser(interpolation=None)
    settings.read(ROOT / "setup.cfg")
    lines = settings["importlinter:contract:layers"]["layers"].split("\n")
    return [[room.strip() for room in line.split("|")] for line in lines if line]


def test_the_rooms_stand_in_the_order_that_the_contract_enforces() -> None:
    table = TEXT.split("| layers | contents |")[1].split("\n\n")[0].splitlines()[2:]
    told = [re.findall(r"`([a-z_]+)`", line.split("|")[1]) for line in table]
    assert told == layers()


@pytest.mark.parametrize("walled", ["agent", "simulator"])
def test_the_walls_of_agent_and_simulator_stand_against_every_room(walled: str) -> None:
    settings = configparser.ConfigParser(interpolation=None)
    settings.read(ROOT / "setup.cfg")
    forbidden = set(settings[f"importlinter:contract:{walled}"]["forbidden_modules"].split())
    rooms = {room for line in layers() for room in line} | {"agent", "simulator"}
    assert forbidden == {f"runnerd.{room}" for room in rooms - {walled}} | {"provisioners"}


def test_every_module_and_folder_of_the_package_is_a_room() -> None:
    found = {path.stem for path in (ROOT / "runnerd").glob("*.py")} | {
        path.parent.name for path in (ROOT / "runnerd").glob("*/__init__.py")
    }
    rooms = {room for line in layers() for room in line}
    assert found - {"__init__", "__main__"} == rooms | {"agent", "simulator"}


def resolve(name: str) -> object:
    """A module below ``runnerd`` or what stands in one.  Raises LookupError."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(["runnerd", *parts[:length]]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            # Slots and protocol attributes are annotations, not values of the class.
            if part in getattr(found, "__annotations__", {}):
                continue
            if not hasattr(found, part):
                raise LookupError(name)
            found = getattr(found, part)
        return found
    raise LookupError(name)


#: Keys of the configuration that share their first word with a room.
SETTINGS = frozenset({"reconcile.drain", "reconcile.interval"})
NAMED = sorted(
    {
        name
        for name in re.findall(r"`([a-z_]+(?:\.[A-Za-z_]+)+)`", TEXT)
        if not name.startswith(("runnerd.", "provisioners.", "random.", "setup.", "tests."))
        and name not in SETTINGS
        and not name.endswith(".py")
    }
)


@pytest.mark.parametrize("name", NAMED)
def test_every_name_in_the_text_is_in_the_code(name: str) -> None:
    resolve(name)


@pytest.mark.parametrize("page", PAGES)
def test_every_test_that_a_page_names_exists(page: str) -> None:
    for file, name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / page).read_text()):
        assert re.search(rf"def {name}\(", (ROOT / file).read_text()), f"{page}: {file} has no {name}"


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_names_exists(page: str) -> None:
    text = (ROOT / page).read_text()
    links = [link.split("#")[0] for link in re.findall(r"\]\((?!https?:)([^)]+)\)", text)]
    missing = [link for link in links if not ((ROOT / page).parent / link).exists()]
    files = re.findall(r"`((?:runnerd|provisioners|tests|config|docs)/[\w/.-]+)(?:::\w+)?`", text)
    missing += [file for file in files if not (ROOT / file).exists()]
    assert not missing, f"{page} points to what is not there: {missing}"


def test_every_dependency_is_explained() -> None:
    settings = configparser.ConfigParser(interpolation=None)
    settings.read(ROOT / "setup.cfg")
    extras = settings["options.extras_require"]
    wanted = "\n".join([settings["options"]["install_requires"], *(extras[name] for name in extras if name != "all")])
    lines = [line.strip() for line in wanted.splitlines()]
    names = {re.split(r"[\[<>=, ]", line)[0].lower() for line in lines if line and not line.startswith("%(")}
    text = (ROOT / "docs" / "dependencies.md").read_text()
    told = {name.lower() for name in re.findall(r"^\| `([\w.-]+)`", text, re.MULTILINE)}
    assert told == names
