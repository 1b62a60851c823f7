"""The rooms of the queue source; see sources/queue.py."""
