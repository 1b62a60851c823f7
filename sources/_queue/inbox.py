"""Queue inboxes: a list and a stream in Redis, from which items are taken, and settled once they are published.

What is taken belongs to one consumer until it is settled, so that a consumer that dies loses nothing: whoever takes
over (see _queue_crew.py) publishes it again, under the same event ids, of which the ledger refuses the second.

A stream remembers by itself what it has given to whom. A list does not: its items are moved, in the same step in which
they get their numbers, to a hash of the consumer. Keys, after the source's prefix:

    sequence          the number that the last item of the list got
    pending:CONSUMER  hash of the items of the list that a consumer has taken: number -> item
    consumers         sorted set of consumers; the score is when one counts as dead, in milliseconds since 1970
    bad               how many items were ever refused
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from redis import ResponseError

from sources._queue.item import Item

if TYPE_CHECKING:
    from redis import Redis

GROUP = "broker"
"""The stream's consumer group."""

COUNT = 500
"""How many items are taken at once, at the most."""

BUDGET = 4 << 20
"""Bytes after which no further item is taken: what a host has to hold in memory."""

LEASE = 10.0
"""Seconds without a sign of life after which other machines take a consumer for dead."""

KEPT_BAD = 10_000
"""How many refused items are kept; the oldest go first."""

_ALIVE = """
local now = redis.call('TIME')
redis.call('ZADD', consumers, now[1] * 1000 + math.floor(now[2] / 1000) + lease, consumer)
"""

# Items that were taken before and not settled come first. The first number is the time in microseconds: should the
# sequence be lost, numbers, and with them event ids, still do not repeat.
_TAKE_LIST = f"""
local list, pending, sequence, consumers = unpack(KEYS)
local consumer, lease, count, budget, limit = ARGV[1], ARGV[2], ARGV[3] + 0, ARGV[4] + 0, ARGV[5] + 0
{_ALIVE}
local taken, bytes = {{}}, 0
local function give(number, item)
  taken[#taken + 1] = {{number, #item, string.sub(item, 1, limit)}}
  bytes = bytes + math.min(#item, limit)
end
local numbers = redis.call('HKEYS', pending)
if #numbers > 0 then
  table.sort(numbers, function(a, b) return a + 0 < b + 0 end)
  for i = 1, math.min(#numbers, count) do
    if bytes >= budget then break end
    give(numbers[i], redis.call('HGET', pending, numbers[i]))
  end
  return taken
end
local last = tonumber(redis.call('GET', sequence) or now[1] * 1000000 + now[2])
while #taken < count and bytes < budget do
  local item = redis.call('LPOP', list)
  if not item then break end
  last = last + 1
  local number = string.format('%.0f', last)
  redis.call('HSET', pending, number, item)
  give(number, item)
end
if #taken > 0 then redis.call('SET', sequence, string.format('%.0f', last)) end
return taken
"""

# ARGV: how many bad records are kept, how many keys are done, those keys, then key and record of each bad item. One
# that another consumer has taken over meanwhile is that consumer's to report.
_SETTLE_LIST = """
local pending, bad, refused = unpack(KEYS)
for i = 3, 2 + ARGV[2] do redis.call('HDEL', pending, ARGV[i]) end
for i = 3 + ARGV[2], #ARGV, 2 do
  if redis.call('HDEL', pending, ARGV[i]) == 1 then
    redis.call('RPUSH', bad, ARGV[i + 1])
    redis.call('INCR', refused)
  end
end
if #ARGV > 2 + ARGV[2] then redis.call('LTRIM', bad, -ARGV[1], -1) end
"""

# One entry a call, because a stream does not tell its entries' sizes beforehand. An entry that somebody deleted after
# it was taken has no fields any more.
_TAKE_STREAM = f"""
local stream, consumers = unpack(KEYS)
local consumer, lease, count, budget, limit = ARGV[1], ARGV[2], ARGV[3] + 0, ARGV[4] + 0, ARGV[5] + 0
local group = ARGV[6]
{_ALIVE}
local taken, bytes, after = {{}}, 0, '0'
while #taken < count and bytes < budget do
  local reply = redis.call('XREADGROUP', 'GROUP', group, consumer, 'COUNT', 1, 'STREAMS', stream, after)
  local entry = reply and reply[1][2][1]
  if not entry then
    if after == '>' or #taken > 0 then break end
    after = '>'
  elseif not entry[2] then
    redis.call('XACK', stream, group, entry[1])
  else
    local size = 0
    for _, text in ipairs(entry[2]) do size = size + #text end
    if size > limit then
      for i, text in ipairs(entry[2]) do entry[2][i] = string.sub(text, 1, limit) end
    end
    taken[#taken + 1] = {{entry[1], size, entry[2]}}
    bytes = bytes + math.min(size, limit)
    if after ~= '>' then after = entry[1] end
  end
end
return taken
"""

_SETTLE_STREAM = """
local stream, bad, refused = unpack(KEYS)
local group = ARGV[3]
for i = 4, 3 + ARGV[2] do
  redis.call('XACK', stream, group, ARGV[i])
  redis.call('XDEL', stream, ARGV[i])
end
for i = 4 + ARGV[2], #ARGV, 2 do
  if redis.call('XACK', stream, group, ARGV[i]) == 1 then
    redis.call('RPUSH', bad, ARGV[i + 1])
    redis.call('INCR', refused)
  end
  redis.call('XDEL', stream, ARGV[i])
end
if #ARGV > 3 + ARGV[2] then redis.call('LTRIM', bad, -ARGV[1], -1) end
"""


@dataclass(frozen=True, kw_only=True)
class Keys:
    """The keys of one queue; see above."""

    list: str
    stream: str
    bad: str
    sequence: str
    consumers: str
    refused: str
    pending: str
    """Of whom it is, follows."""

    @classmethod
    def of(cls, name: str, prefix: str) -> Keys:
        """Return the keys of the source of that name."""
        return cls(
            list=f"broker:queue:{name}",
            stream=f"broker:stream:{name}",
            bad=f"broker:queue:{name}:bad",
            sequence=f"{prefix}sequence",
            consumers=f"{prefix}consumers",
            refused=f"{prefix}bad",
            pending=f"{prefix}pending:",
        )


class Inbox(Protocol):
    """Where items come from. All methods raise redis.RedisError while Redis is away."""

    place: str
    """`list` or `stream`."""
    key: str
    """The key that Redis clients fill."""
    limit: int
    """The largest item, in bytes."""

    def open(self) -> None:
        """Make ready what `take` needs; harmless when it is there."""

    def take(self) -> list[Item]:
        """Return items that are now this consumer's, those first that it has not settled; none when there are none."""

    def settle(self, done: Sequence[Item], bad: Sequence[tuple[Item, bytes]] = ()) -> None:
        """Forget items that were published; set the bad ones aside, each with its record."""

    def wait(self, seconds: float) -> bool:
        """Return True once there is something to take, False when there was nothing for so many seconds."""


class ListInbox:
    """The list `broker:queue:NAME`; see Inbox."""

    place = "list"

    def __init__(self, redis: Redis, keys: Keys, consumer: str, limit: int) -> None:
        """Take the name of this consumer, and the largest item in bytes."""
        self.key, self.limit = keys.list, limit
        self._redis = redis
        self._taken = [keys.list, f"{keys.pending}{consumer}", keys.sequence, keys.consumers]
        self._settled = [f"{keys.pending}{consumer}", keys.bad, keys.refused]
        self._arguments: list[str | int] = [consumer, int(LEASE * 1000), COUNT, BUDGET, limit]
        self._take, self._settle = redis.register_script(_TAKE_LIST), redis.register_script(_SETTLE_LIST)

    def open(self) -> None:
        """Do nothing: a list needs no preparation."""

    def take(self) -> list[Item]:
        """Return items; see Inbox."""
        rows: Any = self._take(self._taken, self._arguments)
        return [Item(place="list", key=key, size=size, fields=((b"data", data),)) for key, size, data in rows]

    def settle(self, done: Sequence[Item], bad: Sequence[tuple[Item, bytes]] = ()) -> None:
        """Forget items; see Inbox."""
        records = [part for pair in bad for part in (pair[0].key, pair[1])]
        self._settle(self._settled, [KEPT_BAD, len(done), *(item.key for item in done), *records])

    def wait(self, seconds: float) -> bool:
        """Return whether there is something to take; see Inbox.

        To move the first item to where it stands already changes nothing, and Redis blocks until there is one.
        """
        found: Any = self._redis.blmove(self.key, self.key, seconds, "LEFT", "LEFT")  # type: ignore[arg-type]  # Redis takes fractions
        return found is not None


class StreamInbox:
    """The stream `broker:stream:NAME`; see Inbox."""

    place = "stream"

    def __init__(self, redis: Redis, keys: Keys, consumer: str, limit: int) -> None:
        """Take the name of this consumer, and the largest item in bytes."""
        self.key, self.limit = keys.stream, limit
        self._redis = redis
        self._consumer = consumer
        self._taken = [keys.stream, keys.consumers]
        self._settled = [keys.stream, keys.bad, keys.refused]
        self._arguments: list[str | int] = [consumer, int(LEASE * 1000), COUNT, BUDGET, limit, GROUP]
        self._take, self._settle = redis.register_script(_TAKE_STREAM), redis.register_script(_SETTLE_STREAM)

    def open(self) -> None:
        """Make the consumer group, from the stream's beginning, and with it the stream."""
        try:
            self._redis.xgroup_create(self.key, GROUP, id="0", mkstream=True)
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):  # it is there
                raise

    def take(self) -> list[Item]:
        """Return items; see Inbox."""
        rows: Any = self._take(self._taken, self._arguments)
        return [
            Item(place="stream", key=key, size=size, fields=tuple(zip(flat[::2], flat[1::2], strict=True)))
            for key, size, flat in rows
        ]

    def settle(self, done: Sequence[Item], bad: Sequence[tuple[Item, bytes]] = ()) -> None:
        """Forget items; see Inbox."""
        records = [part for pair in bad for part in (pair[0].key, pair[1])]
        self._settle(self._settled, [KEPT_BAD, len(done), GROUP, *(item.key for item in done), *records])

    def wait(self, seconds: float) -> bool:
        """Return whether there is something to take; that is then this consumer's, and the first `take` returns."""
        return bool(self._redis.xreadgroup(GROUP, self._consumer, {self.key: ">"}, count=1, block=int(seconds * 1000)))
