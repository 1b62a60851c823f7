"""Budgets: what functions have used of what they may, and which of them wait because it is used up.

Usage is looked at now and then, not counted down with each attempt: what was claimed before the last look is run, and
comes on top.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

import msgspec

from broker import usage
from broker.errors import StoreUnavailable
from broker.ledger import available
from broker.usage import Usage

if TYPE_CHECKING:
    from redis import Redis

    from broker.config import Config
    from broker.function import Budget

ALL = "(all)"
"""Stands for the budget of all functions together; no function has such a name."""

_TOLD_FOR = 40 * 86400
"""Seconds for which is remembered that a budget was told to be used up: longer than a month."""


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """One budget, and what was used of it in this day or month."""

    name: str
    """The function's, or ALL."""
    functions: tuple[str, ...]
    budget: Budget
    used: Usage
    since: date

    @property
    def is_used_up(self) -> bool:
        """Whether it is used up."""
        budget, used = self.budget, self.used
        return (budget.requests is not None and used.requests >= budget.requests) or (
            budget.gb_seconds is not None and used.gb_seconds >= budget.gb_seconds
        )

    @property
    def state(self) -> str:
        """`fine`, `used up`, or `stopped` when its functions wait."""
        return "fine" if not self.is_used_up else "stopped" if self.budget.then == "stop" else "used up"

    @property
    def until(self) -> date:
        """The day on which the next day or month begins."""
        return self.since + timedelta(1) if self.budget.per == "day" else (self.since + timedelta(32)).replace(day=1)

    def __str__(self) -> str:
        """Return what is used up, in one sentence."""
        parts = []
        if self.budget.requests is not None:
            parts.append(f"{self.used.requests:,} of {self.budget.requests:,} requests")
        if self.budget.gb_seconds is not None:
            parts.append(f"{self.used.gb_seconds:,.3f} of {self.budget.gb_seconds:,g} GB-seconds")
        wait = f"; it waits until {self.until}T00:00Z" if self.budget.then == "stop" else ""
        whose = "of all functions" if self.name == ALL else f"of {self.name}"
        return f"the budget {whose} for this {self.budget.per} is used up ({', '.join(parts)}){wait}"


class Budgets:
    """The budgets of one configuration."""

    def __init__(self, config: Config) -> None:
        """Take the configuration; nothing is read yet."""
        self._budgets: list[tuple[str, tuple[str, ...], Budget]] = []
        if config.settings.budget:
            self._budgets.append((ALL, tuple(sorted(config.functions)), config.settings.budget))
        for name, function in config.functions.items():
            if function.budget:
                self._budgets.append((name, (name,), function.budget))
        self._past: dict[str, tuple[date, Usage]] = {}
        """Budget -> the day for which it was summed, and what was used in its month before that day."""
        self._told: set[tuple[str, date]] = set()

    def __bool__(self) -> bool:
        """Say whether there are any."""
        return bool(self._budgets)

    def accounts(self, client: Redis, now: datetime) -> list[Account]:
        """Return what was used of each. One round trip; of a month's days before today one more, once a day.

        Raises StoreUnavailable.
        """
        today = now.astimezone(UTC).date()
        names = sorted({name for _, functions, _ in self._budgets for name in functions})
        found = usage.usage(client, names, [today], "function") if names else {}
        accounts = []
        for name, functions, budget in self._budgets:
            since = today if budget.per == "day" else today.replace(day=1)
            used = usage.total(found[one] for one in functions if one in found) + self._before(
                client, name, since, today
            )
            accounts.append(Account(name=name, functions=functions, budget=budget, used=used, since=since))
        return accounts

    def stopped(self, client: Redis, now: datetime) -> tuple[set[str], list[Account]]:
        """Return the functions that are to wait, and the budgets that nobody has told to be used up before.

        Raises StoreUnavailable.
        """
        used_up = [account for account in self.accounts(client, now) if account.is_used_up]
        waiting = {name for account in used_up if account.budget.then == "stop" for name in account.functions}
        return waiting, [account for account in used_up if self._is_news(client, account)]

    def _before(self, client: Redis, name: str, since: date, today: date) -> Usage:
        """Return what was used from `since` to yesterday, which changes no more."""
        summed_for, past = self._past.get(name, (None, Usage()))
        if summed_for != today:
            functions = next(functions for other, functions, _ in self._budgets if other == name)
            past = _used(client, functions, usage.days(today, (today - since).days + 1)[:-1])
            self._past[name] = today, past
        return past

    def _is_news(self, client: Redis, account: Account) -> bool:
        """Return whether this is the first to tell, of all workers."""
        told = (account.name, account.since)
        if told in self._told:
            return False
        try:
            with available():
                first = client.set(f"broker:budget:{account.name}:{account.since}", 1, nx=True, ex=_TOLD_FOR)
        except StoreUnavailable:
            return False  # a Redis that is full takes no note of it; it is told when there is room
        self._told.add(told)
        return bool(first)


def _used(client: Redis, functions: Iterable[str], period: list[date]) -> Usage:
    return usage.total(usage.usage(client, functions, period, "function").values()) if period else Usage()
