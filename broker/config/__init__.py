"""Configuration: config.toml, read with every mistake told at once."""

from broker.config.loading import Config, load
from broker.config.schema import schema
from broker.config.settings import Settings

__all__ = ["Config", "Settings", "load", "schema"]
