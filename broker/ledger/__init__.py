"""The ledger: what is owed, kept in Redis in RQ's own format, changed only by four atomic scripts."""

from broker.ledger.books import Account, audit, write_off
from broker.ledger.ledger import Ledger, available
from broker.ledger.values import Claim, Claimed, Order, Settlement, Verdict, Want

__all__ = [
    "Account",
    "Claim",
    "Claimed",
    "Ledger",
    "Order",
    "Settlement",
    "Verdict",
    "Want",
    "audit",
    "available",
    "write_off",
]
