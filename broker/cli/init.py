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
{function}

[sources.inbox]
kind = "file"
path = "inbox"

[[triggers]]
source = "inbox"
function = "hello"
"""

_PYTHON = '''\
"""Say what has happened."""


def handler(event, context):
    """Return what the event is about; what is printed goes to the function's log."""
    print(f"{event['type']}: {event.get('subject')}")
    return {"seen": event.get("subject")}
'''

_NODEJS = """\
// Say what has happened.

// Returns what the event is about; what is printed goes to the function's log.
export const handler = async (event, context) => {
  console.log(`${event.type}: ${event.subject}`);
  return { seen: event.subject };
};
"""

_JAVA = """\
// Say what has happened.

import java.util.Map;

public class Hello {
    /** Return what the event is about; what is printed goes to the function's log. */
    public Map<String, Object> handle(Map<String, Object> event) {
        System.out.println(event.get("type") + ": " + event.get("subject"));
        return Map.of("seen", event.getOrDefault("subject", ""));
    }
}
"""

_EXEC = """\
#!/bin/sh
# Say what has happened. The event comes in on standard input; what is printed goes to the function's log, and the last
# line is the result.
echo "$BROKER_EVENT_TYPE: $BROKER_EVENT_SUBJECT"
echo '{"seen": true}'
"""

_HANDLERS = {
    "python": ("handlers/hello.py", 'handler = "handlers/hello.py:handler"', _PYTHON),
    "nodejs": ("handlers/hello.mjs", 'runtime = "nodejs"\nhandler = "handlers/hello.mjs:handler"', _NODEJS),
    "java": ("handlers/Hello.java", 'runtime = "java"\nhandler = "handlers/Hello.java:Hello::handle"', _JAVA),
    "exec": ("handlers/hello.sh", 'runtime = "exec"\nhandler = "handlers/hello.sh"', _EXEC),
}
"""Runtime -> the handler's file, its lines in config.toml, its text."""

_GITIGNORE = """\
.broker/
.env
__pycache__/
"""


@click.command()
@click.argument("folder", metavar="[DIR]", default=".", type=click.Path(file_okay=False, path_type=Path))
@click.option("--runtime", type=click.Choice(list(_HANDLERS)), default="python", help="The language of the handler.")
def init(folder: Path, runtime: str) -> None:
    """Make a small project to start from.

    DIR (by default here) gets a config.toml, a handler and a folder to watch. Nothing that is there
    already is overwritten.
    """
    handler, function, code = _HANDLERS[runtime]
    files = {
        "config.toml": _CONFIG.format(function=function),
        handler: code,
        ".gitignore": _GITIGNORE,
        ".broker/config.schema.json": json.dumps(config.schema(), indent=2) + "\n",
    }
    if there := [name for name in ("config.toml", handler) if (folder / name).exists()]:
        raise BrokerError(f"{folder / there[0]} is there already; nothing was written")
    for name in ("inbox", "handlers"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / ".broker").mkdir(mode=0o700, exist_ok=True)
    for name, text in files.items():
        if not (folder / name).exists():
            (folder / name).write_text(text, encoding="utf-8")
            if text.startswith("#!"):
                (folder / name).chmod(0o755)
            click.echo(f"wrote {folder / name}")
    step = "" if folder == Path() else f"cd {folder} && "
    click.echo(f"\nNow start it with `{step}broker up`, put a file into {folder / 'inbox'}, and look at `broker logs`.")
