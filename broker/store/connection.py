"""Store: the connection to Redis or Valkey, the embedded one or the one that the configuration names."""

from __future__ import annotations

import functools
import logging
import re
import time
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import redis
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.exceptions import MasterDownError, NoPermissionError
from redis.retry import Retry

from broker import address
from broker.errors import Mistake, StoreError, StoreMissing, StoreRefused, StoreUnavailable
from broker.store import sentinel
from broker.store.embedded import Server

if TYPE_CHECKING:
    from collections.abc import Mapping

    from broker.config import Config

__all__ = ["OLDEST", "SOCKET_TIMEOUT", "Server", "complaints", "connect", "describe", "open_url"]

log = logging.getLogger(__name__)

OLDEST = (6, 2)
"""The first version with what the ledger's scripts use."""

SOCKET_TIMEOUT = 20.0
"""Seconds that an answer may take; a blocking command must come back sooner than that."""

HASTY_TIMEOUT = 1.0
"""Seconds that an answer may take for who has a loop to go on with: a worker has environments to look after."""

_RIGHTS = "its user needs scripts, all channels, the keys broker:* and rq:*, and those of queue sources"

_OPTIONS: Mapping[str, Any] = {
    "health_check_interval": 15,
    "decode_responses": False,
}


def connect(config: Config, *, wait: bool = False, hasty: bool = False) -> redis.Redis:
    """Return a client whose server has answered.

    With `wait`, block until there is a server and it has loaded its data, and log about it; one that refuses us or
    what services ask is not waited for. The client repeats a command whose connection broke, for about two seconds;
    with `hasty` it fails within about one.

    Raises StoreMissing when there is no server, StoreUnavailable when it is loading or does not answer, StoreRefused
    when it refuses us. No message holds a password.
    """
    pause, told = 0.05, 0.0
    while True:
        try:
            return _connect_once(config, hasty=hasty, probe=wait)
        except (StoreMissing, StoreUnavailable) as error:
            if not wait:
                raise
            if time.monotonic() - told > 10:
                log.warning("waiting for Redis: %s", error)
                told = time.monotonic()
        time.sleep(pause)
        pause = min(pause * 1.5, 1)


def open_url(url: str, *, patient: bool = True, within: float = SOCKET_TIMEOUT) -> redis.Redis:
    """Return a client for `redis://`, `rediss://`, `unix://` or `sentinel://`; nothing is sent yet.

    `sentinel://[[USER]:PASSWORD@]HOST[:PORT],HOST[:PORT].../SERVICE[/DB][?sentinel_password=...]` leads to the master
    that these sentinels name; sentinel.py says how it is followed. `patient` clients repeat a command whose connection
    broke. An answer that does not come `within` so many seconds does not come.

    Raises StoreError when the URL is none of these.
    """
    retry = Retry(ExponentialWithJitterBackoff(base=0.02, cap=1), 6, (redis.ConnectionError,))
    options = {
        **_OPTIONS,
        "socket_timeout": within,
        "socket_connect_timeout": min(within, 5),
        "retry": retry if patient else Retry(NoBackoff(), 0),
    }
    try:
        if url.startswith("sentinel://"):
            return sentinel.client_of(url, options)
        client = redis.Redis.from_url(url, **options)
    except ValueError:
        # Not chained, and its text not repeated: it may hold a part of the password.
        raise StoreError(
            f"{address.public(url)} is not the URL of a Redis: expected redis://, rediss://, unix:// or sentinel://, "
            f"with special characters of the password percent-encoded"
        ) from None
    pool = client.connection_pool
    pool.connection_class = _leaving(pool.connection_class)
    return client


def describe(client: redis.Redis) -> str:
    """Return what kind of server it is: `Valkey 9.1.2`."""
    info = _info(client)
    if valkey := info.get("valkey_version"):
        return f"Valkey {valkey}"
    return f"Redis {info.get('redis_version', '?')}"


def complaints(client: redis.Redis) -> list[str]:
    """Return what an external server lacks to keep accepted events, one sentence each."""
    try:
        _probe(client)
        info = _info(client)
    except NoPermissionError as error:
        return [f"{error}: {_RIGHTS}"]
    found = []
    version = str(info.get("redis_version", "0"))
    if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < OLDEST:
        found.append(f"Redis {version} is too old: 6.2 or newer is needed")
    if info.get("role", "master") != "master":
        found.append("this server is a replica and takes no writes: connect to its master, or use sentinel://")
    if info.get("cluster_enabled"):
        found.append("this server is part of a cluster, which is not supported: use a single server, or sentinel://")
    policy = info.get("maxmemory_policy", "noeviction")
    if info.get("maxmemory") and policy != "noeviction":
        found.append(
            f"it drops data when its memory is full (maxmemory-policy {policy}): set maxmemory-policy noeviction"
        )
    return [*found, *_durability(client, info), *_access(client)]


def _durability(client: redis.Redis, info: Mapping[str, Any]) -> list[str]:
    found = []
    if not info.get("aof_enabled"):
        snapshots = _setting(client, "save")
        if snapshots is None or snapshots:
            found.append(
                "it has no append-only file, so a crash loses the events since the last snapshot: set appendonly yes"
            )
        else:
            found.append("it keeps nothing on disk, so a restart loses every accepted event: set appendonly yes")
    elif info.get("aof_last_write_status", "ok") != "ok":
        found.append("its last write to the append-only file failed: see its log; is the disk full?")
    return found


def _access(client: redis.Redis) -> list[str]:
    options = client.connection_pool.connection_kwargs
    if "path" in options or options.get("password") or options.get("credential_provider"):
        return []
    host = str(options.get("host", "localhost"))
    if not _loopback(host):
        return [f"anyone who reaches {host} may use it without a password: set requirepass, and put it into the URL"]
    open_to_all = not _setting(client, "requirepass") and _setting(client, "protected-mode") == "no"
    if open_to_all and any(not _loopback(name.strip("-")) for name in (_setting(client, "bind") or "*").split()):
        return ["it listens beyond this machine and has no password: set requirepass, or bind 127.0.0.1"]
    return []


def _probe(client: redis.Redis) -> None:
    """Do what only a user can who may do what the ledger does. Raises NoPermissionError."""
    try:
        client.eval("return redis.call('EXISTS', KEYS[1], KEYS[2])", 2, "broker:functions", "rq:queues")
    except NoPermissionError:
        raise
    except redis.ResponseError:
        log.debug("what else is wrong is told by whoever meets it", exc_info=True)


def _connect_once(config: Config, *, hasty: bool, probe: bool) -> redis.Redis:
    url = config.settings.redis
    if url is None:
        path = address.find(config.data)
        url, name = address.url(path), f"the embedded Redis in {config.data}"
        if not path.exists():
            raise StoreMissing(f"{name} does not run: start it with `broker up`")
    else:
        name = f"Redis at {address.public(url)}"
    try:
        # The first word is said without patience, so that a wrong address is told at once.
        with open_url(url, patient=False) as first:
            first.ping()
            if probe:
                _probe(first)
    except redis.BusyLoadingError as error:
        raise StoreUnavailable(f"{name} is still loading its data: try again in a moment") from error
    except redis.AuthenticationError as error:
        raise _refused(config, f"{name} refuses us: {error}", _form(url)) from error
    except NoPermissionError as error:
        raise _refused(config, f"{name} refuses us: {error}", _RIGHTS) from error
    except (redis.RedisError, OSError) as error:
        if config.settings.redis is None:
            raise StoreMissing(f"{name} does not run any more: start it with `broker up`") from error
        if "DB index" in str(error):
            raise _refused(config, f"{name} has no such database: {error}", _form(url)) from error
        raise StoreUnavailable(f"{name} does not answer: {error}") from error
    client = open_url(url, patient=not hasty, within=HASTY_TIMEOUT if hasty else SOCKET_TIMEOUT)
    sentinel.follow(client)
    return client


def _form(url: str) -> str:
    return f"expected {address.FORMS[url.partition(':')[0]]}"


def _refused(config: Config, problem: str, hint: str) -> StoreRefused:
    mistake = Mistake(file=str(config.path), place="broker.redis", problem=problem.rstrip("."), hint=hint)
    return StoreRefused(str(mistake))


@functools.cache
def _leaving(kind: Any) -> Any:
    """Return a class of connections that leave a server which takes no writes any more.

    After a fail-over the old master may still be there, as a replica, while its name or address leads to the new one.
    redis-py does so of itself only for sentinel://.
    """

    class Leaving(kind):  # type: ignore[misc]  # of which class is known when it runs
        def read_response(self, *arguments: Any, **named: Any) -> Any:
            try:
                return super().read_response(*arguments, **named)
            except redis.ResponseError as error:
                # Redis 6.2 tells of it inside of a script's own error.
                left = isinstance(error, redis.ReadOnlyError | MasterDownError)
                if left or "-READONLY" in str(error):
                    self.disconnect()
                    raise redis.ConnectionError(f"it has become a replica: {error}") from error
                raise

    return Leaving


def _info(client: redis.Redis) -> dict[str, Any]:
    info: dict[str, Any] = client.info()
    return info


def _setting(client: redis.Redis, name: str) -> str | None:
    """Return a setting of the server, or None where it does not tell (many hosted ones do not)."""
    try:
        found: Mapping[Any, Any] = client.config_get(name)
    except redis.ResponseError:
        return None
    value = next(iter(found.values()), None)
    return value.decode() if isinstance(value, bytes) else value


def _loopback(host: str) -> bool:
    if host in {"localhost", ""}:
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
