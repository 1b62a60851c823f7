"""Line: run a script over connections of one's own, past redis-py's general way, which takes longer than the script."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import hiredis
from redis.exceptions import ResponseError

from broker.doorbell import connection_like

if TYPE_CHECKING:
    from redis import Redis

_PIECE = 256 << 10

_AHEAD = hiredis.pack_command(("PING",))
"""Goes before a script: of those that it owes something the server writes first to whom it has owed it for the shortest
time. So the worker that a script hands an event to has it before the script's caller has an answer, and wakes first.
"""


def in_pieces(request: bytes) -> list[bytes]:
    """Return a request as it is sent: a connection's timeout is for each piece, so that a slow network is not lost."""
    if len(request) <= _PIECE:
        return [request]
    return [request[start : start + _PIECE] for start in range(0, len(request), _PIECE)]


class Line:
    """Connections like the client's, made here and kept; each thread that calls at the same time has its own."""

    def __init__(self, client: Redis) -> None:
        """Take the client; nothing is connected yet."""
        self._client = client
        self._free: list[Any] = []

    def run(self, sha: str, arguments: Sequence[Any]) -> Any:
        """Return the answer of the script that the server knows by this digest.

        Raises redis' errors, at the first failure: whoever calls repeats it in redis-py's way, which connects again.
        """
        try:
            connection = self._free.pop()
        except IndexError:
            connection = connection_like(self._client)
            connection.connect()
        try:
            request = hiredis.pack_command(("EVALSHA", sha, 0, *arguments))
            connection.send_packed_command(in_pieces(_AHEAD + request), check_health=False)
            with suppress(ResponseError):  # the script is refused, too, or needs no right to a PING
                connection.read_response()
            answer = connection.read_response()
        except ResponseError:
            self._free.append(connection)
            raise
        except BaseException:
            connection.disconnect()  # an answer may still be on its way
            raise
        self._free.append(connection)
        return answer
