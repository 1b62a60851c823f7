"""The store: connect to Redis or Valkey, or start the embedded one."""

from broker.store.connection import OLDEST, SOCKET_TIMEOUT, complaints, connect, describe, open_url
from broker.store.embedded import Server

__all__ = ["OLDEST", "SOCKET_TIMEOUT", "Server", "complaints", "connect", "describe", "open_url"]
