"""HTTP load: POST the same request over a number of connections for a while; one process, no library, one thread.

    python -m bench.http_load PORT PATH CONNECTIONS SECONDS

Each connection sends its next request when it has the answer to the last. Prints a JSON object: requests answered with
2xx a second, other answers, p50 and p99 in milliseconds.
"""

from __future__ import annotations

import json
import selectors
import socket
import sys
import time

from bench.figures import percentile

BODY = b'{"number": 1, "sent": 0, "pad": "' + b"x" * 180 + b'"}'
LENGTH = b"content-length:"


class Connection:
    """One connection and the request that is under way on it."""

    def __init__(self, port: int, request: bytes) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.settimeout(30)
        self._request = request
        self._answer = b""
        self._sent = 0.0

    def send(self) -> None:
        """Send the next request."""
        self._answer = b""
        self._sent = time.perf_counter()
        self.socket.sendall(self._request)

    def read(self) -> tuple[bool, float] | None:
        """Take what has come; return whether the answer is 2xx and its milliseconds, when it is complete."""
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionError("the server closed the connection")
        self._answer += data
        head, found, body = self._answer.partition(b"\r\n\r\n")
        if not found:
            return None
        _, _, length = head.lower().partition(LENGTH)
        if len(body) < int(length.partition(b"\r\n")[0] or 0):
            return None
        return head[9:10] == b"2", (time.perf_counter() - self._sent) * 1000


def load(port: int, path: str, connections: int, seconds: float) -> dict[str, float]:
    """Load a server; return what came of it."""
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    request = f"{head}Content-Length: {len(BODY)}\r\n\r\n".encode() + BODY
    took: list[float] = []
    refused = 0
    with selectors.DefaultSelector() as selector:
        for _ in range(connections):
            connection = Connection(port, request)
            selector.register(connection.socket, selectors.EVENT_READ, connection)
            connection.send()
        begun = time.perf_counter()
        end = begun + seconds
        open_ones = connections
        while open_ones:
            for key, _ in selector.select(30):
                if (answer := key.data.read()) is None:
                    continue
                good, milliseconds = answer
                if good:
                    took.append(milliseconds)
                else:
                    refused += 1
                if time.perf_counter() < end:
                    key.data.send()
                else:
                    selector.unregister(key.fileobj)
                    key.data.socket.close()
                    open_ones -= 1
        spent = time.perf_counter() - begun
    return {
        "rate": len(took) / spent,
        "good": len(took),
        "refused": refused,
        "p50": percentile(took, 0.5) if took else 0.0,
        "p99": percentile(took, 0.99) if took else 0.0,
    }


if __name__ == "__main__":
    print(json.dumps(load(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))))
