"""Measure broker and its peers in one run: `python -m bench`, or `python -m bench --quick` in a minute."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

from bench import machine, pages, report
from bench.case import Case, Outcome, Room
from bench.figures import Absence
from bench.scenarios import drain, files, floor, http, kill, latency, logs, publish, rest, schedules, starts
from bench.venvs import DEFAULT, Missing, Venvs

SCENARIOS: tuple[ModuleType, ...] = (
    drain,
    latency,
    publish,
    http,
    files,
    logs,
    schedules,
    starts,
    rest,
    kill,
    floor,
)
TITLES = {one.NAME: one.TITLE for one in SCENARIOS}
REPETITIONS = 3
ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "bench/results.json"
"""The figures that the documentation shows."""


def main(arguments: list[str] | None = None) -> int:
    """Measure, and write what came of it; 1 when something could not be measured that should have been."""
    options = _options().parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended, folders removed
    document = json.loads(options.load.read_text()) if options.load else _measure(options)
    outcomes = report.from_json(document)
    about = document["about"]
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "results.json").write_text(json.dumps(document, indent=1) + "\n")
    (options.out / "results.md").write_text(pages.whole(outcomes, TITLES, about) + "\n")
    (options.out / "bench.svg").write_text(pages.picture(outcomes))
    print((options.out / "results.md").read_text())
    print(f"written to {options.out}", file=sys.stderr)
    if options.write:
        _write(document)
    return 1 if any(isinstance(one, Absence) and one.why.startswith("failed") for one in outcomes) else 0


def measure(cases: list[Case], repetitions: int) -> Outcome:
    """Run every case so often; all of them each time, so that what the machine does meanwhile hits all alike."""
    outcomes: Outcome = []
    for repetition in range(repetitions):
        for number, case in enumerate(cases if repetition % 2 == 0 else cases[::-1], start=1):
            begun = time.monotonic()
            try:
                found = case.measure()
            except Missing as missing:
                found = [Absence(scenario=case.scenario, who=case.who, why=str(missing))]
            except Exception as error:  # noqa: BLE001 -- the border of one measurement: the others go on
                found = [Absence(scenario=case.scenario, who=case.who, why=f"failed: {error}")]
            outcomes += found
            place = f"{repetition + 1}/{repetitions} {number}/{len(cases)}"
            print(
                f"{place} {time.monotonic() - begun:5.1f} s  {case.scenario}: {case.who}", file=sys.stderr, flush=True
            )
            for absence in found:
                if isinstance(absence, Absence):
                    print(f"    {absence.who}: {absence.why}", file=sys.stderr, flush=True)
    return outcomes


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    chosen = [one for one in SCENARIOS if not options.only or one.NAME in options.only]
    room = Room(quick=options.quick, venvs=Venvs(options.venvs, make=not options.quick))
    repetitions = options.repetitions or (1 if options.quick else REPETITIONS)
    load = machine.load()
    if load > 0.5:
        print(f"others use this machine (load {load:.1f}): figures will be worse than they are", file=sys.stderr)
    outcomes = measure([case for one in chosen for case in one.cases(room)], repetitions)
    about = {
        "measured": datetime.now(UTC).strftime("%Y-%m-%d"),
        "repetitions": f"{repetitions}{', short ones' if options.quick else ''}",
        "load before": f"{load:.1f}",
        **machine.about(),
        **room.venvs.versions(),
    }
    order = {one.NAME: number for number, one in enumerate(SCENARIOS)}
    first = {case.who: number for one in chosen for number, case in enumerate(one.cases(room))}
    outcomes.sort(key=lambda one: (order[one.scenario], first.get(one.who, len(first))))
    return report.as_json(outcomes, about)


def _write(document: dict[str, Any]) -> None:
    """Put the figures into the documentation; scenarios that were not measured this time stay as they are."""
    if KEPT.exists():
        document = report.merge(json.loads(KEPT.read_text()), document, list(TITLES))
    outcomes, about = report.from_json(document), document["about"]
    KEPT.write_text(json.dumps(document, indent=1) + "\n")
    (ROOT / "docs/bench.svg").write_text(pages.picture(outcomes))
    report.replace(ROOT / "docs/performance.md", "bench", pages.whole(outcomes, TITLES, about))
    shown = "![Drained tasks a second, latency, HTTP requests a second; broker and its peers](docs/bench.svg)"
    report.replace(ROOT / "README.md", "bench", f"{shown}\n\n{pages.short(outcomes)}")
    print("written into README.md, docs/performance.md, docs/bench.svg and bench/results.json", file=sys.stderr)


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="one short repetition of each; peers only drain, if they are installed"
    )
    parser.add_argument("--only", action="append", choices=list(TITLES), help="this scenario alone; may be repeated")
    parser.add_argument("--repetitions", type=int, help=f"how often; {REPETITIONS}, with --quick 1")
    parser.add_argument("--venvs", type=Path, default=DEFAULT, help="where the peers are, or will be, installed")
    parser.add_argument("--out", type=Path, default=DEFAULT / "results", help="where tables, plot and JSON are written")
    parser.add_argument("--write", action="store_true", help="also into README.md and docs/")
    parser.add_argument("--load", type=Path, metavar="JSON", help="measure nothing; take what a run has written")
    return parser


if __name__ == "__main__":
    sys.exit(main())
