"""Configuration: config.toml, read with every mistake told at once."""

from broker.config.loading import Config, load
from broker.config.schema import schema
from broker.config.settings import Settings
from broker.config.single import check_table

__all__ = ["Config", "Settings", "check_table", "load", "schema"]
