"""The documentation names every option, command and error there is, and its examples work."""

from __future__ import annotations

import inspect
import re
import tomllib
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import click
import msgspec
import pytest
from msgspec.structs import fields

from broker import config as configuration
from broker import errors
from broker.cli import broker as command
from broker.config import Settings
from broker.config.settings import PlainQueues
from broker.function import UNLISTED, Batch, Budget, Function, Retry
from broker.layer import Layer
from broker.pattern import compile as compile_pattern
from broker.pattern.operators import OPERATORS
from broker.quantity import Duration, Size
from broker.source import find, shipped
from broker.trigger import Trigger
from sources._http.auth import Auth
from tests.conftest import until
from tests.source_context import RealContext, running

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
DOCS = "\n".join(page.read_text() for page in PAGES if page.name != "README.md")
CONFIGURATION = (ROOT / "docs/configuration.md").read_text()

SECTIONS: dict[str, type[msgspec.Struct]] = {
    "## `[broker]`": Settings,
    "### `[broker.rq]`": PlainQueues,
    "## `[functions.NAME]`": Function,
    "### `retry`": Retry,
    "### `budget`": Budget,
    "### `batch`": Batch,
    "## `[layers.NAME]`": Layer,
    "## `[[triggers]]`": Trigger,
    **{f'### `kind = "{kind}"`': find(kind, ROOT) for kind in sorted(shipped())},
}
SEE_BELOW = {"retry", "rq", "unfinished"}
"""Defaults that do not fit into a cell."""


class Block(NamedTuple):
    """A block of code in a page."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(language: str) -> list[Block]:
    return [
        Block(page.name, text.count("\n", 0, match.start()) + 1, language, match[1])
        for page in PAGES
        for text in [page.read_text()]
        for match in re.finditer(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    ]


def section(heading: str) -> str:
    """Return the section under a heading, up to the next heading of any depth."""
    assert f"\n{heading}\n" in CONFIGURATION, f"docs/configuration.md has no section {heading}"
    return re.split(r"\n#{2,3} ", CONFIGURATION.partition(f"\n{heading}\n")[2])[0]


def rows(text: str) -> dict[str, list[str]]:
    """Return the rows of the tables of keys, by key."""
    found = {}
    for table in text.split("| key | type | default | meaning |\n")[1:]:
        for line in table.partition("\n\n")[0].splitlines()[1:]:
            cells = [cell.strip() for cell in line.strip("|").split(" | ")]
            found[cells[0].strip("`")] = cells
    return found


def shown(default: Any) -> str:
    """Return a default as the tables write it."""
    if default is None:
        return "none"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, Duration | Size):
        return f"`{default}`"
    if isinstance(default, tuple):
        return "`[" + ", ".join(f'"{item}"' for item in default) + "]`"
    return f'`"{default}"`' if isinstance(default, str) else f"`{default}`"


def default_of(info: msgspec.structs.FieldInfo) -> str:
    if info.encode_name in SEE_BELOW:
        return "see below"
    if info.required:
        return "required"
    return shown(info.default if info.default_factory is msgspec.NODEFAULT else info.default_factory())


@pytest.mark.parametrize(("heading", "kind"), [*SECTIONS.items(), ('### `kind = "http"`', Auth)])
def test_every_key_is_documented_with_its_default(heading, kind):
    documented = rows(section(heading))
    for info in fields(kind):
        if kind in {Function, Layer} and info.name in {"name", *UNLISTED}:
            continue
        assert info.encode_name in documented, f"{heading}: {info.encode_name} is missing"
        assert documented[info.encode_name][2] == default_of(info), f"{heading}: the default of {info.encode_name}"


@pytest.mark.parametrize("heading", SECTIONS)
def test_no_key_is_documented_that_is_not_there(heading):
    known = {info.encode_name for info in fields(SECTIONS[heading])}
    if "http" in heading:
        known |= {info.encode_name for info in fields(Auth)}
    assert set(rows(section(heading))) <= known


def test_the_choices_of_a_key_are_all_named():
    for heading, kind in SECTIONS.items():
        documented = rows(section(heading))
        for info in fields(kind):
            for choice in literals(info.type):
                assert f'"{choice}"' in documented[info.encode_name][1], f"{heading}: {info.encode_name}: {choice}"


def literals(kind: Any) -> Iterator[str]:
    if isinstance(kind, types.UnionType) or hasattr(kind, "__args__"):
        for member in get_args(kind):
            if isinstance(member, str):
                yield member
            else:
                yield from literals(member)


def test_every_operator_of_patterns_is_documented():
    assert [name for name in OPERATORS if f"| `{name}` |" not in CONFIGURATION] == []


def test_the_example_of_each_operator_is_a_pattern():
    table = CONFIGURATION.partition("| operator | matches | example |\n")[2].partition("\n\n")[0]
    examples = [line.rsplit(" | ", 1)[1].strip("` |") for line in table.splitlines()[1:]]
    assert len(examples) == len(OPERATORS) + 2
    for example in examples:
        compile_pattern(tomllib.loads(example))


def test_every_command_is_documented():
    missing = [name for name in names(command, "broker") if f"`{name}`" not in DOCS]
    assert missing == []


def names(group: click.Group, prefix: str) -> Iterator[str]:
    context = click.Context(group)
    for name in group.list_commands(context):
        inner = group.get_command(context, name)
        if isinstance(inner, click.Group):
            yield from names(inner, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}"


def test_every_error_is_documented():
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if kind.__module__ == errors.__name__]
    assert len(kinds) > 10
    assert [kind.__name__ for kind in kinds if f"`{kind.__name__}`" not in DOCS] == []


def test_links_lead_somewhere():
    broken = []
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            path, _, anchor = target.partition("#")
            if "://" in target:
                continue
            file = page.parent / path if path else page
            if not file.exists() or (anchor and anchor not in anchors(file)):
                broken.append(f"{page.name}: {target}")
    assert broken == []


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_python_compiles(block):
    compile(block.text, str(block), "exec")


@pytest.mark.parametrize("block", blocks("json"), ids=str)
def test_json_is_json(block):
    msgspec.json.decode(block.text)


@pytest.mark.parametrize("block", blocks("toml"), ids=str)
def test_configurations_load(block, tmp_path):
    document = tomllib.loads(block.text)
    if not set(document) & {"broker", "functions", "layers", "sources", "triggers"}:
        assert "project" in document, f"{block}: neither a configuration nor a pyproject.toml"
        return
    text = block.text
    for function in owed(document) - set(document.get("functions", {})):
        text += f'\n[functions.{function}]\nhandler = "handlers/{function}.py:handler"\n'
    for source in {one["source"] for one in document.get("triggers", [])} - set(document.get("sources", {})):
        text += f'\n[sources.{source}]\nkind = "queue"\n'
    for handler in re.findall(r'^handler = "(.+?\.py):', text, re.MULTILINE):
        write(tmp_path / handler, "def handler(event, context): ...\n")
    for file, code in examples("python").items():
        write(tmp_path / file, code)
    for layer in document.get("layers", {}).values():
        if isinstance(layer.get("requirements"), str):
            write(tmp_path / layer["requirements"], "")
        if "path" in layer:
            write(tmp_path / layer["path"] / "python/module.py", "")
    write(tmp_path / "config.toml", text)
    variables = {name: value_for(name) for name in re.findall(r"\$\{(\w+)\}", text)}
    configuration.load(tmp_path / "config.toml", environ=variables)


def owed(document: dict[str, Any]) -> set[str]:
    """Return the functions that triggers and destinations name."""
    named = {one["function"] for one in document.get("triggers", [])}
    for function in document.get("functions", {}).values():
        named |= {function[key] for key in ("on_success", "on_failure") if key in function}
    return {name for name in named if not name.startswith("queue:")}


def value_for(name: str) -> str:
    return "4" if name == "WORKERS" else "c2VjcmV0"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def examples(language: str) -> dict[str, str]:
    """Return the files that docs/sources.md gives in whole."""
    text = (ROOT / "docs/sources.md").read_text()
    pattern = rf"<!-- example: (\S+) -->\n```{language}\n(.*?)^```$"
    return dict(re.findall(pattern, text, re.DOTALL | re.MULTILINE))


def test_a_source_of_your_own_runs_and_goes_on_where_it_was(tmp_path, redis_client):
    for file, text in {**examples("python"), **examples("toml")}.items():
        write(tmp_path / file, text)
    write(tmp_path / "handlers/hello.py", "def handler(event, context): ...\n")
    log = tmp_path / "journal.txt"
    log.write_bytes(b"first\nERROR second\nnot who")
    config = configuration.load(tmp_path / "config.toml", environ={})
    context = RealContext(redis_client, tmp_path, name="journal")
    with running(config.sources["journal"], context):
        until(lambda: context.count() == 2)
    with log.open("ab") as file:
        file.write(b"le\n")
    with running(config.sources["journal"], RealContext(redis_client, tmp_path, name="journal")):
        until(lambda: context.count() == 3)
    records = context.records()
    assert [record["data"] for record in records] == ["first", "ERROR second", "not whole"]
    assert [record["id"] for record in records] == ["0", "6", "19"]
