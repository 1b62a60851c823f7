"""Nothing is lost when every process of the broker is killed at once; see kill9.py, which runs more rounds."""

from __future__ import annotations

import pytest

from tests.chaos.kill9 import run_round


@pytest.mark.parametrize("seed", [4, 10])
def test_all_jobs_end_and_only_those_in_flight_run_twice_when_everything_is_killed(tmp_path, seed):
    figures = run_round(tmp_path, seed)
    assert 0 < figures.ended_at_kill < 2_000
    assert figures.lost == 0
    assert figures.started_twice <= figures.in_flight
