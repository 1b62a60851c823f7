"""A project folder, a nursery, and a loop that does what a worker's does: for the tests of environments."""

from __future__ import annotations

import contextlib
import json
import select
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from broker.errors import Stopped
from broker.function import Function
from broker.quantity import Duration, Size
from broker.runtime.environment import Environment
from broker.runtime.messages import Died, Done, Line, Lines, Message, Ready
from broker.runtime.nursery import Nursery
from tests.conftest import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def invocation(number: int) -> str:
    return f"{number:032x}"


class Driver:
    """Files under `root`, functions of them in environments, and all messages of each environment."""

    def __init__(self, root: Path, nursery: Nursery | None = None) -> None:
        self.root = root
        self.nursery = nursery or Nursery(root)
        self.nursery.root = root
        self.messages: dict[Environment, list[Message]] = {}
        self._numbers = iter(range(1, 1_000_000))

    def write(self, name: str, code: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(code))

    def start(
        self, handler: str, *, timeout: float = 10, memory: int = 256 << 20, init_timeout: float = 10, **more: Any
    ) -> Environment:
        """Start an environment; `handler` may be code that defines `handler`."""
        if "\n" in handler:
            self.write("function.py", handler)
            handler = "function.py:handler"
        limits = {"timeout": Duration(timeout), "memory": Size(memory), "init_timeout": Duration(init_timeout)}
        environment = self.nursery.start(Function(name="fn", handler=handler, **limits, **more))
        self.messages[environment] = []
        return environment

    def warm(self, handler: str, **options: Any) -> Environment:
        """Start an environment and wait until it is ready."""
        environment = self.start(handler, **options)
        message = self.wait(environment, lambda message: isinstance(message, Ready | Died))
        assert isinstance(message, Ready), message
        return environment

    def send(self, environment: Environment, *events: Any) -> list[str]:
        """Send events; return the ids of their invocations."""
        ids = [invocation(next(self._numbers)) for _ in events]
        for id_, event in zip(ids, events, strict=True):
            environment.send(id_, 1, json.dumps(event).encode())
        environment.flush()
        return ids

    def call(self, environment: Environment, event: Any = None, *, within: float = PATIENCE) -> Done | Died:
        """Send one event and return how it ended."""
        [id_] = self.send(environment, event)
        ended = self.wait(environment, lambda message: _ends(message, id_), within=within)
        assert isinstance(ended, Done | Died)
        return ended

    def result(self, environment: Environment, event: Any = None) -> Any:
        done = self.call(environment, event)
        assert isinstance(done, Done), done
        assert done.ok, done
        return json.loads(done.body)

    def error(self, environment: Environment, event: Any = None) -> dict[str, Any]:
        done = self.call(environment, event)
        assert isinstance(done, Done), done
        assert not done.ok, done
        error = json.loads(done.body)
        assert set(error) == {"errorMessage", "errorType", "stackTrace"}
        return error

    def died(self, environment: Environment, *, within: float = PATIENCE) -> Died:
        message = self.wait(environment, lambda message: isinstance(message, Died), within=within)
        assert isinstance(message, Died)
        return message

    def lines(self, environment: Environment) -> list[tuple[str | None, Line]]:
        return [
            (message.invocation, line)
            for message in self.messages[environment]
            if isinstance(message, Lines)
            for line in message.lines
        ]

    def text(self, environment: Environment) -> list[str]:
        return [line.text for _, line in self.lines(environment)]

    def wait(self, environment: Environment, wanted: Callable[[Message], bool], *, within: float = PATIENCE) -> Message:
        """Run the loop until a message of this environment is the wanted one; return it."""
        found: list[Message] = []
        seen = 0

        def look() -> bool:
            nonlocal seen
            for message in self.messages[environment][seen:]:
                seen += 1
                if wanted(message):
                    found.append(message)
                    return True
            return False

        self.run(look, within=within, what=lambda: f"{environment.id}: {self.messages[environment][-5:]}")
        return found[0]

    def run(self, until: Callable[[], Any], *, within: float = PATIENCE, what: Callable[[], str] = str) -> None:
        """Do what a worker's loop does until the condition holds."""
        end = time.monotonic() + within
        while not until():
            if time.monotonic() > end:
                pytest.fail(f"not within {within} s; {what()}")
            self.once()

    def once(self) -> None:
        poll = select.poll()
        poll.register(self.nursery, select.POLLIN)
        living = [environment for environment in self.messages if not environment.dead]
        for environment in living:
            poll.register(environment.control, select.POLLIN | (select.POLLOUT if environment.wants_write else 0))
            poll.register(environment.output, select.POLLIN)
        deadlines = [one.deadline for one in living if one.deadline is not None]
        wait = min([0.05, *(deadline - time.monotonic() for deadline in deadlines)])
        poll.poll(max(0, wait * 1000))
        self.nursery.read()
        for environment in living:
            environment.flush()
            self.messages[environment] += environment.read()
            self.messages[environment] += environment.tick(time.monotonic())

    def overdue(self, environment: Environment) -> None:
        """Tell it that it is an hour later: whatever it runs has had its time."""
        self.messages[environment] += environment.tick(time.monotonic() + 3600)

    def processes(self) -> list[int]:
        """Return every living process that runs in the project's folder, wherever it has gone."""
        return [pid for path in Path("/proc").iterdir() if path.name.isdigit() and self._owns(pid := int(path.name))]

    def _owns(self, pid: int) -> bool:
        with contextlib.suppress(OSError):
            return alive(pid) and Path(f"/proc/{pid}/cwd").readlink() == self.root
        return False


@pytest.fixture(scope="session")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    nursery = Nursery(tmp_path_factory.mktemp("nursery"))
    yield nursery
    nursery.close()


@pytest.fixture
def driver(tmp_path: Path, nursery: Nursery) -> Iterator[Driver]:
    """A driver in a folder of one's own; afterwards no process of it may be left."""
    driver = Driver(tmp_path, nursery)
    yield driver
    for environment in driver.messages:
        environment.kill(Stopped("the test is over"))
    driver.run(lambda: all(environment.dead for environment in driver.messages))
    assert driver.processes() == []


def alive(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def _ends(message: Message, id_: str) -> bool:
    if isinstance(message, Died):
        return True
    return isinstance(message, Done) and message.invocation == id_
