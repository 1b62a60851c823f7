"""Bridge: what threads finish arrives on the event loop."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future

import pytest

from sources._http.bridge import Bridge, Released


def test_every_result_arrives_whichever_threads_finish_them():
    futures = [Future() for _ in range(2000)]

    def finish(part):
        for number in part:
            futures[number].set_result(number)

    async def wait():
        bridge = Bridge(asyncio.get_running_loop())
        waits = [asyncio.ensure_future(bridge.result(future, 10)) for future in futures]
        await asyncio.sleep(0)
        threads = [threading.Thread(target=finish, args=[range(start, 2000, 4)]) for start in range(4)]
        for thread in threads:
            thread.start()
        return await asyncio.gather(*waits)

    assert asyncio.run(wait()) == list(range(2000))


def test_an_error_arrives_as_itself():
    future = Future()
    future.set_exception(KeyError("x"))

    async def wait():
        await Bridge(asyncio.get_running_loop()).result(future, 10)

    with pytest.raises(KeyError):
        asyncio.run(wait())


def test_who_waits_too_long_or_is_released_does_not_disturb_the_future():
    late, released = Future(), Future()

    async def wait():
        bridge = Bridge(asyncio.get_running_loop())
        with pytest.raises(TimeoutError):
            await bridge.result(late, 0.01)
        asyncio.get_running_loop().call_soon(bridge.release)
        with pytest.raises(Released):
            await bridge.result(released, 10)

    asyncio.run(wait())
    late.set_result(1)  # the loop is closed by now
    released.set_result(2)
    assert (late.result(), released.result()) == (1, 2)
