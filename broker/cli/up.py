"""`broker up`, and the two kinds of process that it starts: `broker host` and `broker worker`."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from broker import address
from broker.cli import _plan
from broker.cli._project import Project, pass_project
from broker.config.programs import require_programs
from broker.errors import BrokerError
from broker.leash import follow_parent
from broker.runtime.inside import kernel
from broker.store.embedded import Server
from broker.supervisor import Supervisor, commands

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.config import Config

supervised_option = click.option("--supervised", is_flag=True, hidden=True, help="End when the parent process does.")


@click.command()
@pass_project
def up(project: Project) -> int:
    """Run everything on this machine.

    That is Redis (unless the configuration names one), all sources, and the workers.

    Ctrl-C stops it: sources first, then the workers, which finish what they run. A second Ctrl-C does not wait.
    """
    kernel.keep_secrets()
    config = project.config
    require_programs(config)
    server = Server(config.data, fsync=config.settings.fsync) if config.settings.redis is None else None
    complaints = _plan.complaints(config)
    hosts, workers = commands(config)

    def started() -> None:
        with suppress(OSError):  # nobody looks; the broker runs all the same
            _show(config, server, complaints)

    supervisor = Supervisor(
        data=config.data,
        server=server,
        hosts=hosts,
        workers=workers,
        grace=config.settings.grace,
        started=started,
    )
    return supervisor.run()


@click.command()
@supervised_option
@pass_project
def host(project: Project, supervised: bool) -> int:
    """Run the sources alone.

    `broker up` does it for you; this is for a machine that shares its Redis with others.
    """
    from broker.host import main  # noqa: PLC0415 -- help and `up` do without the sources' libraries

    if supervised:
        follow_parent()
    return _serve(lambda: main(project.config))


@click.command()
@click.option("--burst", is_flag=True, help="End when nothing is waiting.")
@click.option("--name", metavar="NAME", help="How `broker status` and RQ's tools call it; unique.")
@supervised_option
@pass_project
def worker(project: Project, burst: bool, name: str | None, supervised: bool) -> int:
    """Run a worker alone.

    `broker up` does it for you; this is for a machine that shares its Redis with others.
    """
    from broker.worker import main  # noqa: PLC0415 -- help and `up` do without Redis and RQ

    if supervised:
        follow_parent()
    require_programs(project.config)
    return _serve(lambda: main(project.config, burst=burst, name=name))


def _serve(run: Callable[[], int]) -> int:
    """Run a service; a fault of ours is logged with its traceback, since nobody can ask again with BROKER_DEBUG."""
    kernel.keep_secrets()
    try:
        return run()
    except BrokerError:
        raise
    except Exception as error:  # the border of the process
        from redis.exceptions import NoPermissionError  # noqa: PLC0415 -- by now it is there

        if isinstance(error, NoPermissionError):
            raise
        logging.getLogger("broker").exception("a fault of broker itself")
        return 1


def _show(config: Config, server: Server | None, complaints: list[str]) -> None:
    count = config.settings.workers
    click.echo(f"{click.style('broker', bold=True)} runs {config.path} with {count} worker{'s' if count > 1 else ''}")
    if server is not None:
        click.echo(f"Redis: embedded {server.version} at {server.socket}")
    else:
        click.echo(f"Redis: {address.public(config.settings.redis or '')}")
    if config.settings.rq.queues:
        click.echo(f"plain RQ jobs of {', '.join(config.settings.rq.queues)}")
    for complaint in complaints:
        click.echo(f"{click.style('warning:', fg='yellow')} {complaint}")
    _plan.show(config)
    click.echo(f"{click.style('broker logs -f', bold=True)} follows what functions print; Ctrl-C stops.")
