"""Bubble: an environment inside bubblewrap (bwrap(1)).

It has a file system that it can only read, its own /tmp, its own process numbers, and no network unless it is allowed.
The forked child becomes bwrap, which becomes a new Python in the bubble, which goes on where the child was. So such an
environment shares no pages with the nursery. It runs in the environment, so it needs nothing beyond the standard
library.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from broker.runtime.inside import kernel
from broker.runtime.inside.become import become
from broker.runtime.inside.confinement import lower

_EMPTY = ("/tmp", "/run")  # noqa: S108 -- the very folders
"""Folders that are empty in the bubble: what other programs put there, their sockets above all."""

_RESOLVER = ("/run/systemd/resolve", "/run/resolvconf", "/run/NetworkManager")
"""Where /etc/resolv.conf may lead."""

_SEARCHED = ("PATH", "PYTHONPATH", "NODE_PATH", "LD_LIBRARY_PATH", "LAMBDA_TASK_ROOT")
"""Variables that name folders which a function needs."""

_AGAIN = "import sys; sys.path.append(sys.argv[1]); from broker.runtime.inside.bubble import main; main()"
_PACKAGE = str(Path(__file__).parents[3])


def enter(spec: Mapping[str, Any], control: int, output: int) -> NoReturn:
    """Replace this process by a bubble, in which `main` goes on with the same spec and descriptors."""
    program = spec["bounds"]["bubble"]["program"]
    told = os.memfd_create("spec", 0)
    os.write(told, json.dumps({**spec, "lines": [control, output]}).encode())
    os.lseek(told, 0, os.SEEK_SET)
    for one in (control, output):
        os.set_inheritable(one, True)
    bare = [] if spec["speech"] == "python" else ["-S"]  # only handlers in Python need what is installed
    again = [sys.executable, "-P", *bare, "-c", _AGAIN, _PACKAGE, str(told)]
    try:
        os.execv(program, [program, *arguments(spec), "--", *again])  # noqa: S606 -- to become it is the point
    except OSError as error:
        os.write(2, f"[ERROR] {program} cannot be run: {error.strerror}\n".encode())
        os._exit(1)


def arguments(spec: Mapping[str, Any]) -> list[str]:
    """Return bwrap's options. Their order counts: later ones cover what earlier ones have put there."""
    rules, root = spec["bounds"]["bubble"], spec["root"]
    paths = [path for name in _SEARCHED for path in spec["variables"].get(name, "").split(os.pathsep)]
    program = spec["argv"][:1]  # not its arguments: a line that names what is hidden is not to uncover it
    named = (root, _PACKAGE, sys.prefix, sys.base_prefix, *program, *spec["layers"], *paths)
    absolute = [path for path in named if path[:1] == "/"]
    needed = list(dict.fromkeys([*absolute, *map(os.path.realpath, absolute)]))
    options = ["--unshare-all", "--die-with-parent", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"]
    options += ["--share-net"] if rules["network"] else []
    options += ["--cap-drop", "ALL"] if os.geteuid() == 0 else []
    options += ["--size", str(rules["tmp"]), "--tmpfs", "/tmp", "--tmpfs", "/run"]  # noqa: S108 -- its own
    if rules["network"]:
        options += [part for path in _RESOLVER for part in ("--ro-bind-try", path, path)]
    options += _seen(needed, _EMPTY)
    options += [part for path in rules["writable"] for part in ("--bind-try", path, path)]
    for path in rules["hidden"]:
        if Path(path).is_dir():
            options += ["--tmpfs", path]
        elif Path(path).exists():
            options += ["--ro-bind", os.devnull, path]
    return [*options, *_seen(needed, rules["hidden"]), "--chdir", root]


def _seen(paths: Iterable[str], covered: Iterable[str]) -> list[str]:
    """Return the options that bring back what lies below folders that are covered."""
    below = [path for path in paths if any(path.startswith(f"{cover}/") for cover in covered)]
    return [part for path in below for part in ("--ro-bind-try", path, path)]


def main() -> None:
    """Go on inside the bubble as the environment that `enter` has left off being."""
    with os.fdopen(int(sys.argv[2]), "rb") as file:
        spec = json.load(file)
    control, output = spec["lines"]
    for one in (control, output):
        os.set_inheritable(one, False)
    kernel.show_name(spec["name"])
    if os.geteuid():  # counted in the bubble's own user namespace; root is never held to it
        lower(resource.RLIMIT_NPROC, spec["bounds"]["processes"] + 1)  # bwrap's own process number 1
    become(spec, control, output).run()
