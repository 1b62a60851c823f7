"""The worker: an RQ worker whose loop is claim -> run in warm environments -> settle."""

from broker.worker.worker import Worker, main

__all__ = ["Worker", "main"]
