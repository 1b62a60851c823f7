"""Queue crew: the consumers of one queue, on all hosts; a dead one's items go to one that lives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from broker import identity
from sources._queue.inbox import GROUP, LEASE, Keys

if TYPE_CHECKING:
    from redis import Redis

BEAT = 2.0
"""Seconds between signs of life."""

# ARGV: this consumer, its lease in milliseconds, the stream's group, the prefix of pending hashes, consumers whose
# process is known to have ended. Answers whom items were taken from.
_BEAT = """
local consumers, stream, own = unpack(KEYS)
local consumer, lease, group, pending = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local now = redis.call('TIME')
now = now[1] * 1000 + math.floor(now[2] / 1000)
redis.call('ZADD', consumers, now + lease, consumer)
-- What ends later than a lease can is of before the clock was put back.
for _, name in ipairs(redis.call('ZRANGEBYSCORE', consumers, '(' .. string.format('%.0f', now + lease), '+inf')) do
  redis.call('ZADD', consumers, now + lease, name)
end
local dead = redis.call('ZRANGEBYSCORE', consumers, '-inf', '(' .. string.format('%.0f', now), 'LIMIT', 0, 10)
for i = 5, #ARGV do dead[#dead + 1] = ARGV[i] end
local robbed = {}
for _, name in ipairs(dead) do
  -- Another consumer may have seen to it since this one looked.
  if name ~= consumer and redis.call('ZSCORE', consumers, name) then
    local items = redis.call('HGETALL', pending .. name)
    for i = 1, #items, 2 do redis.call('HSET', own, items[i], items[i + 1]) end
    redis.call('DEL', pending .. name)
    local found = #items
    local left = {}
    if redis.call('EXISTS', stream) == 1 then
      left = redis.call('XPENDING', stream, group, '-', '+', 1000, name)
      for _, entry in ipairs(left) do
        redis.call('XCLAIM', stream, group, consumer, 0, entry[1], 'JUSTID')
      end
      found = found + #left
    end
    if #left < 1000 then
      if redis.call('EXISTS', stream) == 1 then redis.call('XGROUP', 'DELCONSUMER', stream, group, name) end
      redis.call('ZREM', consumers, name)
    end
    if found > 0 then robbed[#robbed + 1] = name end
  end
end
return robbed
"""


class Crew:
    """This process among the consumers of one queue."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        """Take the queue's keys. One process has one consumer of a queue, however often its source is started."""
        self.name = identity.of_this_process()
        self._redis = redis
        self._keys = keys
        self._beat = redis.register_script(_BEAT)

    def beat(self) -> list[str]:
        """Say that this consumer lives; return the dead ones whose items are now its own.

        A process of this machine that has ended is known to be dead at once; of others, their silence has to tell.
        Raises redis.RedisError.
        """
        keys = self._keys
        names: Any = self._redis.zrange(keys.consumers, 0, -1)
        others = [name.decode() for name in names if name.decode() != self.name]
        dead = [name for name in others if identity.is_dead(name)]
        robbed: Any = self._beat(
            [keys.consumers, keys.stream, f"{keys.pending}{self.name}"],
            [self.name, int(LEASE * 1000), GROUP, keys.pending, *dead],
        )
        return [name.decode() for name in robbed]

    def leave(self) -> None:
        """Let others take over at once, should anything be left. Raises redis.RedisError."""
        self._redis.zadd(self._keys.consumers, {self.name: 0})
