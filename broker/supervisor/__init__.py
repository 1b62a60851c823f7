"""The supervisor of `broker up`: the server, the host and the workers, started, watched and ended together."""

from broker.supervisor.supervisor import Supervisor, commands

__all__ = ["Supervisor", "commands"]
