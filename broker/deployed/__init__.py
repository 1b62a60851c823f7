"""Deployed: functions whose code was pushed: versions, aliases and code in Redis, and all functions taken together."""
