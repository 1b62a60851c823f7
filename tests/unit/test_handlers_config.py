"""The config.toml that ships is right, needs nothing set up, and runs every function that ships."""

from __future__ import annotations

from pathlib import Path

from broker import config

ROOT = Path(__file__).parents[2]


def test_it_loads_without_any_variable_and_runs_every_handler():
    loaded = config.load(ROOT / "config.toml", environ={})
    handlers = {function.handler for function in loaded.functions.values()}
    with_handler = [path for path in (ROOT / "handlers").glob("*.py") if "\ndef handler(" in path.read_text()]
    assert handlers == {f"handlers/{path.name}:handler" for path in with_handler}
    assert {trigger.function for trigger in loaded.triggers} == set(loaded.functions)


def test_every_kind_that_ships_is_shown():
    assert set(config.load(ROOT / "config.toml", environ={}).kinds.values()) == {"file", "schedule", "queue", "http"}
