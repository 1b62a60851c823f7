"""Measures broker against the task queues that a user might take instead; see bench/README.md."""
