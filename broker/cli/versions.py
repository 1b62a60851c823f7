"""`broker versions`, `alias`, `rollback`, `undeploy`: which version of a deployed function runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from broker.cli._given import check_name, confirm
from broker.cli._output import Column, json_option, print_json, print_table
from broker.cli._project import Project, pass_project
from broker.cli._share import NUMBER, WEIGHT
from broker.deployed.record import LIVE, Alias
from broker.errors import DeployFailed
from broker.quantity import Size

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.deployed.record import Record

_VERSIONS = [
    Column(key="version", right=True),
    Column(key="aliases", title="aliases"),
    Column(key="handler"),
    Column(key="runtime"),
    Column(key="origin", title="made of"),
    Column(key="size", right=True),
    Column(key="code"),
    Column(key="created", folds=False),
]
_FUNCTIONS = [
    Column(key="name", title="function"),
    Column(key="live"),
    Column(key="versions", right=True),
    Column(key="triggers"),
    Column(key="created", title="last deployed", folds=False),
]


@click.command()
@click.argument("name", required=False)
@click.option("--prune", is_flag=True, help="Remove old versions that no alias names.")
@click.option("--keep", type=click.IntRange(0), default=1, show_default=True, help="With --prune: how many stay.")
@json_option
@pass_project
def versions(project: Project, *, name: str | None, prune: bool, keep: int, as_json: bool) -> None:
    """List the deployed functions, or the versions of one."""
    records = _records(project)
    if name is not None:
        check_name("deployed function", name, records)
    if prune:
        for each in [name] if name else list(records):
            records[each] = _change(project, each, lambda record: record.pruned(keep))
    if name is None:
        rows = [_function(record, as_json=as_json) for record in records.values()]
        print_table(rows, _FUNCTIONS, as_json=as_json, nothing="nothing was deployed; see `broker deploy`")
    else:
        rows = [_version(records[name], number) for number in sorted(records[name].versions, reverse=True)]
        print_table(rows, _VERSIONS, as_json=as_json)


@click.command()
@click.argument("name")
@click.argument("alias", required=False)
@click.option("--version", type=NUMBER, help="The version that it names; latest is the code beside config.toml.")
@click.option("--weight", "weights", type=WEIGHT, multiple=True, metavar="N=10%", help="A share for another version.")
@click.option("--remove", is_flag=True, help="Forget the alias.")
@json_option
@pass_project
def alias(
    project: Project,
    *,
    name: str,
    alias: str | None,
    version: int | None,
    weights: tuple[tuple[int, float], ...],
    remove: bool,
    as_json: bool,
) -> None:
    """Show the aliases of a function, or set one.

    Triggers, destinations and `broker invoke NAME` run the alias live, `broker invoke NAME:ALIAS` any other.
    """
    records = _records(project)
    check_name("deployed function", name, records)
    record = records[name]
    if remove:
        if alias is None or alias == LIVE:
            raise click.UsageError(f"name the alias to remove; {LIVE} is always there")
        check_name("alias", alias, record.aliases)
        record = _change(project, name, lambda old: old.with_alias(alias, None))
    elif version is not None or weights:
        if alias is None or not alias.isidentifier():
            raise click.UsageError("name the alias; it begins with a letter, and has letters, digits and _")
        record = _change(project, name, lambda old: _set(project, old, alias, version, dict(weights)))
    elif alias is not None:
        check_name("alias", alias, record.aliases)
    rows = [_alias(each, record.aliases[each]) for each in sorted(record.aliases) if remove or alias in {None, each}]
    print_table(rows, [Column(key="alias"), Column(key="runs")], as_json=as_json)


@click.command()
@click.argument("name")
@click.option("--to", "number", type=NUMBER, help="The version to go back to; by default the one before.")
@json_option
@pass_project
def rollback(project: Project, *, name: str, number: int | None, as_json: bool) -> None:
    """Let an older version be live again.

    When a new version has only a share yet, it loses that.
    """
    check_name("deployed function", name, _records(project))

    def make(record: Record) -> Record:
        if number is not None:
            return _set(project, record, LIVE, number, {})
        if record.live.weights:
            return _set(project, record, LIVE, record.live.version, {})
        before = record.before_live()
        if before is None and (record.live.version == 0 or name not in project.config.functions):
            raise DeployFailed(f"{name} has no version before the one that is live")
        return _set(project, record, LIVE, before or 0, {})

    record = _change(project, name, make)
    if as_json:
        print_json({"function": name, "live": record.live.version})
    else:
        click.echo(f"{name}: {_named(record.live.version)} is live")


@click.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@pass_project
def undeploy(project: Project, *, name: str, yes: bool, as_json: bool) -> None:
    """Remove what was deployed of a function.

    That is all its versions, its aliases and its deployed triggers.

    What waits for it stays where it is, until it is deployed again. A function of config.toml runs the code beside it.
    """
    records = _records(project)
    check_name("deployed function", name, records)
    wanted = [each.name for each in project.functions.values() if name in {each.on_success, each.on_failure}]
    if wanted and name not in project.config.functions:
        raise DeployFailed(f"{name} is a destination of {', '.join(wanted)}")
    if not yes:
        confirm(f"Remove {name} with {len(records[name].versions)} versions?")
    from broker.deployed.record import Record  # noqa: PLC0415 -- for annotations alone elsewhere

    _change(project, name, lambda record: Record(name=name, last=record.last))
    if as_json:
        print_json({"function": name, "removed": len(records[name].versions)})
    else:
        click.echo(f"{name}: {len(records[name].versions)} versions removed")


def _records(project: Project) -> dict[str, Record]:
    """Return the functions that are deployed."""
    from broker.deployed import catalog  # noqa: PLC0415 -- Redis' library loads slowly; help does without

    return {name: record for name, record in catalog.read(project.redis)[1].items() if record.versions}


def _change(project: Project, name: str, make: Callable[[Record], Record]) -> Record:
    from broker.deployed import catalog  # noqa: PLC0415 -- as above

    return catalog.change(project.redis, name, make)


def _set(project: Project, record: Record, name: str, version: int | None, weights: dict[int, float]) -> Record:
    """Return the record with an alias that names these versions. Raises DeployFailed when it cannot."""
    before = record.aliases.get(name)
    if version is None and before is None:
        raise DeployFailed(f"{record.name} has no alias {name} yet: say --version, too")
    main = version if version is not None or before is None else before.version
    for number in (main, *weights):
        is_there = number in record.versions or (number == 0 and record.name in project.config.functions)
        if number is None or not is_there:
            known = ", ".join(map(str, sorted(record.versions)))
            raise DeployFailed(f"{record.name} has no {_named(number or 0)}; it has {known}")
    shares = {number: share for number, share in weights.items() if share > 0 and number != main}
    if (total := sum(shares.values())) > 1:
        raise DeployFailed(f"the shares add up to {total:.0%}")
    return record.with_alias(name, Alias(version=main or 0, weights=shares))


def _function(record: Record, *, as_json: bool) -> dict[str, Any]:
    newest = record.versions[max(record.versions)]
    if as_json:
        return {
            "name": record.name,
            "live": record.live.version,
            "weights": record.live.weights,
            "versions": sorted(record.versions),
            "triggers": record.triggers,
            "created": newest.created,
        }
    return {
        "name": record.name,
        "live": _runs(record.live),
        "versions": len(record.versions),
        "triggers": ", ".join(trigger["source"] for trigger in record.triggers),
        "created": newest.created,
    }


def _version(record: Record, number: int) -> dict[str, Any]:
    version = record.versions[number]
    return {
        "version": number,
        "aliases": ", ".join(name for name, each in sorted(record.aliases.items()) if number in each.versions()),
        "handler": version.options["handler"],
        "runtime": version.options["runtime"],
        "origin": version.origin,
        "size": str(Size(version.size)) if version.size < 1 << 10 else f"{version.size / (1 << 10):,.1f}KB",
        "code": version.code[:12],
        "created": version.created,
    }


def _alias(name: str, alias: Alias) -> dict[str, Any]:
    return {"alias": name, "runs": _runs(alias), "version": alias.version, "weights": alias.weights}


def _runs(alias: Alias) -> str:
    others = [f"{_named(number)} {share:.0%}" for number, share in sorted(alias.weights.items())]
    return ", ".join([_named(alias.version), *others])


def _named(number: int) -> str:
    return f"version {number}" if number else "the code beside config.toml"
