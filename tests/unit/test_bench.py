"""What `python -m bench` makes of its figures: spread, tables, plot, pages."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import pages, plot, profile, records, report
from bench.__main__ import TITLES, measure
from bench.case import Case
from bench.figures import Absence, Figure, Spread, percentile, spread, summary
from bench.scenarios.schedules import due_within
from bench.venvs import Venvs

ROOT = Path(__file__).parents[2]
FLOATS = st.floats(min_value=-1e9, max_value=1e9)


def figure(who="broker", what="drained", value=1.0, scenario="drain", unit="/s"):
    return Figure(scenario=scenario, who=who, what=what, value=value, unit=unit)


@given(st.lists(FLOATS, min_size=1, max_size=50))
def test_a_spread_is_the_median_between_the_extremes(values):
    found = spread(values)
    assert found.low == min(values)
    assert found.high == max(values)
    assert found.low <= found.median <= found.high
    assert sum(one <= found.median for one in values) * 2 >= len(values)


@given(st.lists(FLOATS, min_size=1, max_size=50), st.floats(min_value=0, max_value=1))
def test_a_percentile_is_the_smallest_value_that_enough_do_not_exceed(values, share):
    found = percentile(values, share)
    assert found in values
    assert sum(one <= found for one in values) >= share * len(values) - 1e-9
    assert found == min(values) or sum(one < found for one in values) < share * len(values)


def test_repetitions_of_a_figure_come_together():
    found = summary([figure(value=3), figure(value=1), figure(value=2), figure(who="RQ", value=9)])
    assert found["drain", "broker", "drained", "/s"] == Spread(median=2, low=1, high=3, count=3)
    assert found["drain", "RQ", "drained", "/s"].count == 1


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (2, "2"), (12_345.6, "12,300"), (104.2, "104"), (4.567, "4.57"), (0.01234, "0.0123"), (99.96, "100.0")],
)
def test_numbers_have_three_digits(value, text):
    assert report.number(value) == text


def test_a_table_has_a_row_for_each_contender_and_says_who_is_missing():
    told = [figure(value=1), figure(value=3), Absence(scenario="drain", who="Huey", why="pip said | no")]
    assert report.table(told).splitlines() == [
        "| | drained, /s |",
        "|---|---|",
        "| broker | 2 [1..3] |",
        "| Huey | missing: pip said \\| no |",
    ]


def test_what_is_written_can_be_read_again():
    told = [figure(value=1), figure(value=3), figure(who="RQ"), Absence(scenario="drain", who="Huey", why="no")]
    document = report.as_json(told, {"python": "3"})
    assert report.from_json(document) == told
    assert document["about"] == {"python": "3"}


def test_a_run_of_one_scenario_leaves_the_others_figures_alone():
    old = report.as_json([figure(value=1), figure(scenario="rest", value=5)], {"measured": "then"})
    new = report.as_json([figure(value=2)], {"measured": "now"})
    merged = report.from_json(report.merge(old, new, ["drain", "rest"]))
    assert merged == [figure(value=2), figure(scenario="rest", value=5)]


def test_only_what_is_between_the_markers_is_replaced():
    page = "before\n<!-- bench -->\nold\n\nold\n<!-- /bench -->\nafter\n"
    assert report.between(page, "bench", "new \\1") == "before\n<!-- bench -->\nnew \\1\n<!-- /bench -->\nafter\n"
    with pytest.raises(ValueError, match="markers"):
        report.between("before", "bench", "new")


def test_a_plot_is_xml_whose_bars_are_as_long_as_their_values():
    bars = [
        plot.Bar(label="a & b", spread=Spread(median=50, low=40, high=100, count=3), ours=True),
        plot.Bar(label="<c>", spread=Spread(median=25, low=25, high=25, count=1)),
    ]
    tree = ET.fromstring(plot.svg([plot.Panel(title="rate", better="more", bars=bars)]))
    name = "{http://www.w3.org/2000/svg}"
    widths = {one.get("class"): float(one.get("width", "0")) for one in tree.iter(f"{name}rect")}
    assert widths["ours"] == pytest.approx(2 * widths["peer"])
    assert len(list(tree.iter(f"{name}line"))) == 1, "a range only where there were several"
    assert {"a & b", "<c>"} <= {one.text for one in tree.iter(f"{name}text")}


def test_the_readmes_table_joins_what_a_contender_did_in_each_scenario():
    told = [
        figure(value=9_000),
        figure(who="SAQ, 2 workers", value=4_000),
        Absence(scenario="drain", who="Huey", why="no"),
        figure(scenario="latency", what="p50", value=0.5),
        figure(scenario="kill", who="SAQ, 2 workers, sweep 5 s", what="lost", value=0),
        figure(scenario="kill", who="SAQ, 2 workers, sweep 5 s", what="all had run after", value=16),
        figure(who="taskiq list", value=2_000),
        figure(scenario="kill", who="taskiq list", what="lost", value=5),
        figure(scenario="kill", who="taskiq list", what="all had run after", value=2),
    ]
    rows = pages.short(told).splitlines()[2:]
    assert rows == [
        "| broker | 9,000 | 0.500 | - | - | - |",
        "| SAQ, 2 workers | 4,000 | - | - | 0 | 16 |",
        "| Huey | missing | - | - | - | - |",
        "| taskiq list | 2,000 | - | - | 5 | never |",
    ]


def test_the_pages_have_their_markers():
    for page, name in (("README.md", "bench"), ("docs/performance.md", "bench"), ("docs/performance.md", "profile")):
        report.between((ROOT / page).read_text(), name, "")


def test_records_that_were_cut_off_do_not_count(tmp_path):
    path = tmp_path / "records"
    whole = [records.FORMAT.pack(10**9 * second, 0, second, 0) for second in (3, 1, 2)]
    path.write_bytes(b"".join(whole) + b"half")
    assert records.count(path) == 3
    assert [one.number for one in records.read(path)] == [1, 2, 3]
    assert records.rate(records.read(path)) == pytest.approx(1)
    assert records.read(tmp_path / "none") == []


@given(st.integers(1_000, 99_999), st.integers(10**9, 2 * 10**9), st.integers(1, 200))
def test_the_ticks_that_fall_due_are_the_multiples_of_the_interval(ten_thousandths, first, seconds):
    every = ten_thousandths / 10_000
    expected = math.ceil((first + seconds) * 10_000 / ten_thousandths) - math.ceil(first * 10_000 / ten_thousandths)
    assert abs(due_within(every, first, first + seconds) - expected) <= 1, "but for one on the very edge"


def test_a_peer_that_is_not_installed_is_reported_and_the_others_are_measured(tmp_path, capsys):
    venvs = Venvs(tmp_path, make=False)

    def missing():
        return [venvs.bin("nobody", ())]

    def broken():
        raise RuntimeError("it broke")

    cases = [
        Case(scenario="drain", who=who, measure=act)
        for who, act in {"nobody": missing, "broken": broken, "broker": lambda: [figure()]}.items()
    ]
    first, second, third = measure(cases, 1)
    assert isinstance(first, Absence)
    assert "not made yet" in first.why
    assert second == Absence(scenario="drain", who="broken", why="failed: it broke")
    assert third == figure()
    assert "it broke" in capsys.readouterr().err


def test_every_scenario_is_explained():
    explained = (ROOT / "bench/README.md").read_text()
    assert [name for name in TITLES if f"`{name}`" not in explained] == []


def test_a_sample_counts_to_the_innermost_file_of_broker_or_to_the_call_that_it_serves():
    loop = ["main (broker/cli/__init__.py:1)", "Worker.work (broker/worker/worker.py:99)"]
    samples = {
        ";".join([*loop, "Pool.give (broker/runtime/pool.py:131)", "min (builtins.py:1)"]): 3,
        ";".join([*loop, "Outbox.tell (broker/worker/outbox.py:9)", "pack (redis/connection.py:139)"]): 5,
        ";".join([*loop, "Outbox.tell (broker/worker/outbox.py:9)", "X.read_from_socket (redis/hiredis.py:1)"]): 2,
    }
    shares = profile.steps(samples)
    assert list(shares.items()) == [
        ("settle: arguments", 0.5),
        ("`broker/runtime/pool.py`", 0.3),
        ("waits for the server, or for anything at all", 0.2),
    ]
    assert "50.0%  pack (redis/connection.py:139)" in profile.hot_lines(samples, 1)
