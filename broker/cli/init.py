"""`broker init`: a folder with a configuration and a handler that work."""

from __future__ import annotations

import json
from pathlib import Path

import click

from broker import config
from broker.errors import BrokerError

_CONFIG = """\
#:schema .broker/config.schema.json

[functions.hello]
handler = "handlers/hello.py:handler"

[sources.inbox]
kind = "file"
path = "inbox"

[[triggers]]
source = "inbox"
function = "hello"
"""

_HANDLER = '''\
"""Say what has happened."""


def handler(event, context):
    """Return what the event is about; what is printed goes to the function's log."""
    print(f"{event['type']}: {event['subject']}")
    return {"seen": event["subject"]}
'''

_GITIGNORE = """\
.broker/
.env
__pycache__/
"""


@click.command()
@click.argument("folder", metavar="[DIR]", default=".", type=click.Path(file_okay=False, path_type=Path))
def init(folder: Path) -> None:
    """Make a small project to start from.

    DIR (by default here) gets a config.toml, a handler and a folder to watch. Nothing that is there
    already is overwritten.
    """
    files = {
        "config.toml": _CONFIG,
        "handlers/hello.py": _HANDLER,
        ".gitignore": _GITIGNORE,
        ".broker/config.schema.json": json.dumps(config.schema(), indent=2) + "\n",
    }
    if there := [name for name in ("config.toml", "handlers/hello.py") if (folder / name).exists()]:
        raise BrokerError(f"{folder / there[0]} is there already; nothing was written")
    for name in ("inbox", "handlers"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / ".broker").mkdir(mode=0o700, exist_ok=True)
    for name, text in files.items():
        if not (folder / name).exists():
            (folder / name).write_text(text, encoding="utf-8")
            click.echo(f"wrote {folder / name}")
    step = "" if folder == Path() else f"cd {folder} && "
    click.echo(f"\nNow start it with `{step}broker up`, put a file into {folder / 'inbox'}, and look at `broker logs`.")
