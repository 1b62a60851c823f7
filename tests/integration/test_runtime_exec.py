"""`runtime = "exec"`: what a program is told, and what it leaves behind."""

# ruff: noqa: F401, F811 -- pytest finds the imported fixtures by their names

from __future__ import annotations

from typing import Any

import pytest

from tests.conftest import until
from tests.integration.environment_driver import Driver, alive, driver, nursery

pytestmark = pytest.mark.timeout(60)

TOLD = "env | sed -n 's/^BROKER_EVENT_//p' | sort | tr '\\n' ' ' | sed 's/.*/\"&\"/'"


def event(**fields: Any) -> dict[str, Any]:
    return {"specversion": "1.0", "id": "7", "source": "inbox", "type": "t", **fields}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (event(subject="a b"), "ID=7 SOURCE=inbox SUBJECT=a b TYPE=t "),
        (event(), "ID=7 SOURCE=inbox TYPE=t "),
        (event(subject=5), "ID=7 SOURCE=inbox TYPE=t "),
        (event(subject="x\0y"), "ID=7 SOURCE=inbox SUBJECT=xy TYPE=t "),
        (event(subject="s" * 200_000), "ID=7 SOURCE=inbox TYPE=t "),  # no program could be started with it
        ([event()], None),
    ],
)
def test_a_program_is_told_of_its_event_what_a_variable_may_hold(driver: Driver, given: Any, told: str | None) -> None:
    assert driver.result(driver.start(TOLD, runtime="exec"), given) == told


def test_a_program_reads_the_whole_event_twice_if_it_wants_to(driver: Driver) -> None:
    line = 'a=$(wc -c); b=$(wc -c < /dev/stdin); echo "[$a, $b]"'
    assert driver.result(driver.start(line, runtime="exec"), "x" * 300_000) == [300_003, 300_003]


def test_what_a_program_leaves_running_is_killed(driver: Driver) -> None:
    pid = driver.result(driver.start("sleep 300 & echo $!", runtime="exec"), None)
    until(lambda: not alive(pid))
