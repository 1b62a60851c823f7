"""The ledger: what is owed, kept in Redis in RQ's own format."""
