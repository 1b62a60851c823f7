"""Environments: the processes that run functions."""
