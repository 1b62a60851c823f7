"""A worker's ears: a connection that has died without a word is noticed, and made anew."""

from __future__ import annotations

import selectors
import socket
from typing import TYPE_CHECKING

import pytest

from broker.doorbell import MISSED, PATIENCE, Subscription
from broker.errors import StoreUnavailable
from broker.store import connection
from broker.worker.ears import Ears
from tests.chaos.proxy import Proxy
from tests.conftest import until

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def line(redis_server) -> Iterator[Proxy]:
    def reach() -> socket.socket:
        link = socket.socket(socket.AF_UNIX)
        link.connect(str(redis_server.socket))
        return link

    proxy = Proxy(reach)
    yield proxy
    proxy.close()


def test_ears_whose_connection_stands_still_are_renewed(line, redis_client):
    heard: list[tuple[str, bytes]] = []
    with (
        selectors.DefaultSelector() as selector,
        connection.open_url(f"redis://127.0.0.1:{line.port}", patient=False, within=0.2) as client,
    ):
        ears = Ears(client, selector, ["bell"], lambda *said: heard.append(said))

        def hears(*said: tuple[str, bytes]) -> bool:
            for key, _ in selector.select(0):
                key.data()
            return heard == list(said)

        ears.listen(0)
        until(lambda: hears((MISSED, b"")))
        for beat in range(1, 5):  # it is asked, and answers: nobody hangs up
            ears.listen(beat * PATIENCE)
            until(lambda: hears((MISSED, b"")) and not ears._subscription._is_asked)
        line.hold()
        ears.listen(5 * PATIENCE)
        ears.listen(5.5 * PATIENCE)  # too early to tell
        assert ears._subscription is not None
        with pytest.raises(StoreUnavailable):
            ears.listen(6 * PATIENCE)
        heard.clear()
        line.release()
        ears.listen(6 * PATIENCE)
        until(lambda: hears((MISSED, b"")))
        redis_client.publish("bell", "x")
        until(lambda: hears((MISSED, b""), ("bell", b"x")))
        ears.hang_up()


def test_nothing_that_was_said_is_lost_when_it_is_asked_whether_anybody_is_there(redis_server, redis_client):
    with connection.open_url(redis_server.url, patient=False, within=5) as client:
        client.connection_pool.connection_kwargs["health_check_interval"] = 0.001  # due each time, not after 15 s
        subscription = Subscription(client, ["bell"])
        try:
            until(lambda: list(subscription.heard(1)) == [(MISSED, b"")])
            for number in range(3):
                redis_client.publish("bell", number)
                subscription.ask()
                until(lambda said=("bell", b"%d" % number): said in subscription.heard(5))
        finally:
            subscription.close()
