"""Broker: events from files, schedules, queues and webhooks run your functions, and nothing gets lost."""
