"""Each way to hit the broker once, under load: nothing is lost, and only what was in flight runs again."""

from __future__ import annotations

import random

import pytest

from tests.chaos import faults
from tests.chaos.episode import Oracle
from tests.chaos.faults import EMBEDDED, EXTERNAL
from tests.chaos.rig import Rig

HALF = len(EMBEDDED) // 2

PLANS = {
    "processes": ("everysec", EMBEDDED[:HALF]),
    "sentinel": ("sentinel", (faults.fail_over,)),
    "Redis, disk, network": ("everysec", EMBEDDED[HALF:]),
    "always": ("always", (faults.kill_redis, faults.fill_disk_and_kill_redis)),
    "a Redis of its own": ("external", tuple(fault for fault in EXTERNAL if fault not in EMBEDDED)),
}


@pytest.mark.timeout(400)  # many faults each, and a machine may be busy
@pytest.mark.parametrize("plan", PLANS)
def test_nothing_is_lost_and_only_what_was_in_flight_runs_again(tmp_path, plan):
    kind, row = PLANS[plan]
    rng = random.Random(plan)
    rig = Rig(tmp_path, kind, seed=1, patience=1)
    try:
        oracle = Oracle(rig)
        for fault in row:
            if "disk" in fault.__name__ and not rig.has_disk:
                continue
            figures = oracle.run(fault, rng)
            print(figures)  # `pytest -rP` shows it
            assert figures.events > 0
            assert figures.lost == 0
            assert figures.started_twice <= figures.most
    finally:
        rig.close()
