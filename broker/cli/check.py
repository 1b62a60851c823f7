"""`broker check`: read the configuration and say what it sets up, or everything that is wrong with it."""

from __future__ import annotations

import json

import click

from broker import config as configuration
from broker.cli import _plan
from broker.cli._output import Column, json_option, print_json, print_table
from broker.cli._project import Project, pass_project
from broker.config.programs import require_programs


@click.command()
@click.option("--schema", is_flag=True, help="Print the JSON Schema of config.toml, for editors.")
@json_option
@pass_project
def check(project: Project, schema: bool, as_json: bool) -> None:
    """Check the configuration; show what it sets up."""
    if schema:
        click.echo(json.dumps(configuration.schema(), indent=2))
        return
    config = project.config
    require_programs(config)
    complaints, schedules = _plan.complaints(config), _plan.schedules(config)
    if as_json:
        print_json(
            {
                "config": str(config.path),
                "functions": _plan.functions(config),
                "sources": _plan.sources(config),
                "triggers": _plan.triggers(config),
                "firings": _plan.firings(config, schedules),
                "complaints": complaints,
            }
        )
        return
    _plan.show(config)
    print_table(
        _plan.firings(config, schedules[: _plan.FEW]),
        [Column(key="source", title="schedule"), Column(key="due", title="next firings")],
    )
    if len(schedules) > _plan.FEW:
        click.echo(f"The next firings of {len(schedules) - _plan.FEW} more: broker check --json")
    for complaint in complaints:
        click.echo(f"{click.style('warning:', fg='yellow')} {complaint}", err=True)
    click.echo(f"{config.path} is fine.")
