"""`broker deploy`: push a script, a folder or a zip, and start using it."""

from __future__ import annotations

import sys
import tempfile
import tomllib
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from broker.cli._given import check_name, parse_json
from broker.cli._output import json_option, print_json
from broker.cli._project import Project, pass_project
from broker.cli._share import SHARE
from broker.config import check_table
from broker.deployed import packing
from broker.errors import DeployFailed
from broker.pattern import compile as compile_pattern

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from broker.config import Config

OF_CODE = ("handler", "runtime", "layers")
"""What a deploy may say of a function that has a table in config.toml; the rest stands there."""

OF_HOSTS = ("user", "budget")
"""What no deploy may say: it would reach beyond the function."""


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--name", help="The function; by default the name of the file or folder.")
@click.option("--runtime", help="By default as the file's name says.")
@click.option("--handler", help="FILE:NAME, or what the runtime takes; by default `handler` of the main file.")
@click.option("--timeout", help="How long one attempt may run: 30s.")
@click.option("--memory", help="What it may occupy: 256MB.")
@click.option("--layer", "layers", multiple=True, metavar="NAME", help="A layer of config.toml; may be repeated.")
@click.option("--env", "variables", multiple=True, metavar="NAME=VALUE", help="A variable of it; may be repeated.")
@click.option("--set", "more", multiple=True, metavar="KEY=VALUE", help="Any other key of a [functions.NAME] table.")
@click.option("--trigger", "sources", multiple=True, metavar="SOURCE", help="Run it for events of this source.")
@click.option("--pattern", metavar="JSON", help="With --trigger: only for events that match.")
@click.option("--weight", type=SHARE, default="100%", show_default=True, help="The share of what is live that it gets.")
@json_option
@pass_project
def deploy(
    project: Project,
    /,
    *,
    path: Path,
    name: str | None,
    sources: tuple[str, ...],
    pattern: str | None,
    weight: float,
    as_json: bool,
    **given: Any,
) -> None:
    """Make code the next version of a function.

    PATH is a file, a folder or a zip.

    All workers on all hosts use it at once. A function of config.toml gets other code; its limits and triggers
    stay. Any other name is a function from now on.
    """
    config = project.config
    name = name or packing.name_of(path)
    triggers = _triggers(config, sources, pattern)
    options = _options(**given)
    if not config.settings.deploy:
        raise DeployFailed(f"[broker] deploy = false in {config.path}: this broker runs no deployed functions")
    if own := [key for key in OF_HOSTS if key in options]:
        raise click.UsageError(f"{', '.join(own)} of a function is for each host's config.toml alone to say")
    if name in config.functions and (own := sorted(set(options) - set(OF_CODE))):
        raise click.UsageError(f"{', '.join(own)} of {name} stands in {config.path}: change it there")
    if name in config.settings.rq.queues:
        raise DeployFailed(f"{name} is a queue of plain RQ jobs in {config.path}")
    with tempfile.TemporaryDirectory(prefix="broker-deploy-") as work:
        packed = packing.pack(path, Path(work))
        options["runtime"], options["handler"] = packing.guess(packed, options.get("runtime"), options.get("handler"))
        check_table(name, options, packed.folder, config, [*project.functions, name])
        from broker.deployed.deploying import deploy as store  # noqa: PLC0415 -- Redis' library loads slowly

        size = packed.zip.stat().st_size
        with _progress(size, quiet=as_json) as advance:
            record, number = store(
                project.redis,
                name,
                packed,
                options,
                triggers=triggers,
                share=weight,
                origin=path.resolve().name,
                progress=advance,
            )
    live = record.live
    if as_json:
        print_json({"function": name, "version": number, "live": live.version, "weights": live.weights, **options})
        return
    share = "live" if not live.weights else f"live for {live.weights.get(number, 0):.0%} of its invocations"
    click.echo(f"{name}: version {number} is {share} ({options['runtime']}, {options['handler']}, {size:,} bytes)")


def _options(layers: tuple[str, ...], variables: tuple[str, ...], more: tuple[str, ...], **plain: str | None) -> Any:
    """Return the table that the options amount to."""
    table: dict[str, Any] = {key: value for key, value in plain.items() if value is not None}
    if layers:
        table["layers"] = list(layers)
    if variables:
        table["variables"] = dict(_pair(text, "--env") for text in variables)
    for key, value in (_pair(text, "--set") for text in more):
        try:
            table[key] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:  # 30s, queue:done
            table[key] = value
    return table


def _pair(text: str, option: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise click.UsageError(f"{option}: expected NAME=VALUE, got {text!r}")
    return name, value


def _triggers(config: Config, sources: tuple[str, ...], pattern: str | None) -> list[dict[str, Any]] | None:
    """Return the triggers that are given; None when those that there are stay."""
    if pattern is not None and not sources:
        raise click.UsageError("--pattern says which events of a --trigger count")
    for source in sources:
        check_name("source", source, config.sources)
    if not sources:
        return None
    if pattern is None:
        return [{"source": source} for source in sources]
    parsed = parse_json(pattern)
    compile_pattern(parsed)
    return [{"source": source, "pattern": parsed} for source in sources]


@contextmanager
def _progress(size: int, *, quiet: bool) -> Iterator[Callable[[int], None]]:
    """Yield what is told the bytes that were sent; it shows them to people who look, when they are many."""
    if quiet or not sys.stderr.isatty() or size < 4 << 20:
        yield lambda _: None
        return
    with click.progressbar(length=size, label="storing the code", file=sys.stderr) as bar:
        yield bar.update
