"""Plain jobs: what other programs enqueue with RQ in queues that the configuration names, run as RQ runs them."""
