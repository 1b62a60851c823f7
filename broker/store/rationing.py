"""Rationing: have the embedded server take nothing on while its disk has little room, and write its file anew in time.

The server could rewrite its file by itself. But a new file has no room of its own behind its end until somebody sees to
it, which is here done at once.
"""

from __future__ import annotations

import errno
import time
from typing import TYPE_CHECKING

from broker.store import aof, reserve
from broker.store.inline import ask, tell
from broker.store.space import Space

if TYPE_CHECKING:
    from pathlib import Path

REWRITE_FROM = 64 << 20
"""Bytes from which on a file that has doubled is written anew."""

AGAIN = 60.0
"""Seconds before a file that is still too large is written anew once more: the last time it may have failed."""


class Rationing:
    """What the server of one data folder is told of its disk."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._space = Space(data)
        self._refuses = False
        """Whether the server was told to take nothing on."""
        self._torn = self._healing = False
        """Whether a write to its file may have failed; whether the file is being written anew since."""
        self._rewrite_at = 0.0

    def begin(self) -> dict[str, str]:
        """Look at the disk, and return the settings for a server that is started now. Raises OSError."""
        self._look()
        self._refuses = self._space.scarce
        self._torn = self._healing = False
        return self._settings()

    def watch(self, socket: Path | None) -> str:
        """Look at the disk, and tell the server what follows; return what people should know, if any.

        Without a socket no server runs. Raises OSError.
        """
        space = self._space
        self._look()
        if socket is None:
            if space.scarce:
                space.drop_ballast()  # it may have ended for want of room
            return ""
        if space.scarce:
            self._healing = False
            if ask(socket, "INFO persistence").get("aof_last_write_status") != "ok":
                self._torn = True
                space.drop_ballast()
        if self._torn and not space.scarce and not self._healed(socket):
            return ""
        if self._refuses == space.scarce:
            self._rewrite_if_due(socket)
            return ""
        for name, value in self._settings().items():
            tell(socket, f"CONFIG SET {name} {value}")
        self._refuses = space.scarce
        if space.scarce:
            left = space.left >> 20
            return f"the disk of {self._data} has only {left} MB left: nothing new is taken on until it has more"
        return f"there is room again on the disk of {self._data}: events are taken on"

    def _look(self) -> None:
        self._space.look()
        self._top_up()

    def _top_up(self) -> None:
        folder, ahead = self._data / aof.FOLDER, self._space.ahead
        try:
            reserve.top_up(folder, ahead)
        except OSError as error:  # no file yet, no room any more, or a file system that cannot: there is the ballast
            if error.errno == errno.ENOSPC and reserve.left(folder) < ahead // 4:
                self._torn = True  # a write may fail, and the next one not, before anybody looks again

    def _settings(self) -> dict[str, str]:
        """Return the settings that hang on whether there is room."""
        scarce = self._space.scarce
        return {
            # The scripts that run what is there are carried out all the same; see ledger/common.lua.
            "maxmemory": "1" if scarce else "0",
            "auto-aof-rewrite-percentage": "0",
        }

    def _rewrite_if_due(self, socket: Path) -> None:
        """Have the file written anew when most of it is what came since the last time."""
        if self._space.scarce or time.monotonic() < self._rewrite_at:
            return
        base, appended = aof.sizes(self._data / aof.FOLDER)
        if appended >= base and base + appended >= REWRITE_FROM:
            self._rewrite(socket)

    def _rewrite(self, socket: Path) -> None:
        self._rewrite_at = time.monotonic() + AGAIN
        tell(socket, "BGREWRITEAOF")
        self._top_up()  # what comes meanwhile goes to a new file already

    def _healed(self, socket: Path) -> bool:
        """Have the file written anew after a write that failed, and say whether that is done. Raises OSError.

        Valkey 9.1 cuts a torn write off in the wrong place once it has rewritten its file, and cannot read on.
        """
        if not self._healing:
            self._rewrite(socket)
            self._healing = True
            return False
        info = ask(socket, "INFO persistence")
        if "1" in {info.get("aof_rewrite_in_progress"), info.get("aof_rewrite_scheduled")}:
            return False
        self._healing = False
        self._torn = info.get("aof_last_bgrewrite_status") != "ok"
        return not self._torn
