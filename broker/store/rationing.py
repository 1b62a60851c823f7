"""Rationing: have the embedded server take nothing on while its disk has little room, and mend its file after that."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from broker.store import aof, reserve
from broker.store.inline import ask, tell
from broker.store.space import Space

if TYPE_CHECKING:
    from pathlib import Path


class Rationing:
    """What the server of one data folder is told of its disk."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._space = Space(data)
        self._refuses = False
        """Whether the server was told to take nothing on."""
        self._torn = self._healing = False
        """Whether a write to its file has failed; whether the file is being written anew since."""

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
        if self._refuses == space.scarce or (self._torn and not space.scarce and not self._healed(socket)):
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
        with suppress(OSError):  # no file yet, no room any more, or a file system that cannot: there is the ballast
            reserve.top_up(self._data / aof.FOLDER, self._space.ahead)

    def _settings(self) -> dict[str, str]:
        """Return the settings that hang on whether there is room."""
        scarce = self._space.scarce
        return {
            # The scripts that run what is there are carried out all the same; see ledger/common.lua.
            "maxmemory": "1" if scarce else "0",
            # A new file would begin with nothing behind its end.
            "auto-aof-rewrite-percentage": "0" if scarce else "100",
        }

    def _healed(self, socket: Path) -> bool:
        """Have the file written anew after a write that failed, and say whether that is done. Raises OSError.

        Valkey 9.1 cuts a torn write off in the wrong place once it has rewritten its file, and cannot read on.
        """
        if not self._healing:
            tell(socket, "BGREWRITEAOF")
            self._healing = True
            return False
        info = ask(socket, "INFO persistence")
        if "1" in {info.get("aof_rewrite_in_progress"), info.get("aof_rewrite_scheduled")}:
            return False
        self._healing = False
        self._torn = info.get("aof_last_bgrewrite_status") != "ok"
        return not self._torn
