"""Patterns: does this event match? EventBridge's pattern language, pure."""

from broker.pattern.pattern import Branch, Pattern, compile  # noqa: A004 -- as in re.compile

__all__ = ["Branch", "Pattern", "compile"]
