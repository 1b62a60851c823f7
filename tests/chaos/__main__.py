"""Chaos: hit a broker under load at random moments, and see each time whether anything was lost or doubled.

    python -m tests.chaos --faults 300 --seed 1

prints a row for each fault, a table by kind, and a last line with what it all came to; the exit code is 1 when anything
was lost, doubled that was not in flight, or out of balance, or when recovery took too long. The same seed hits
the same way, at moments that the machine's own chance moves. `--only` and `--on` choose kinds of faults and of Redis.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path
from statistics import median

import pytest

from tests.chaos.episode import Figures, Oracle
from tests.chaos.faults import FAULTS
from tests.chaos.rig import Rig

ROUND = 20
"""Faults until everything begins anew in an empty folder."""

HEAD = (
    f"{'fault':<26} {'Redis':<9} {'events':>6} {'in flight':>9} {'twice':>5} {'lost':>4} {'refused':>7} {'recovery':>9}"
    f" {'in all':>8}"
)


def main() -> int:
    """Run the faults and print their figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", metavar="KIND,...", default="", help="of faults; see tests/chaos/faults.py")
    parser.add_argument("--on", metavar="REDIS,...", default=",".join(FAULTS), help=f"of {', '.join(FAULTS)}")
    given = parser.parse_args()
    only = set(filter(None, given.only.split(",")))
    plan = {kind: [one for one in FAULTS[kind] if not only or one.__name__ in only] for kind in given.on.split(",")}
    plan = {kind: faults for kind, faults in plan.items() if faults}
    rng, rows, failed, began, number = random.Random(given.seed), [], [], time.monotonic(), 0
    print(HEAD)
    while number < given.faults:
        for kind, faults in plan.items():
            most = min(ROUND, given.faults - number)
            row = [one for _ in range(-(-most // len(faults))) for one in rng.sample(faults, len(faults))][:most]
            done, failure = _round(kind, row, rng, rows)
            number += done
            failed += [failure] if failure else []
            if number >= given.faults:
                break
    _summary(rows, failed, time.monotonic() - began)
    return 1 if failed or any(one.late for _, one in rows) else 0


def _round(kind, faults, rng, rows):
    """Run faults on one rig; return how many, and what failed, which keeps its folder."""
    folder = Path(tempfile.mkdtemp(prefix="broker-chaos-"))
    done, rig = 0, None
    try:
        rig = Rig(folder, kind, seed=rng.getrandbits(32))
        oracle = Oracle(rig)
        for fault in faults:
            done += 1
            if "disk" in fault.__name__ and not rig.has_disk:
                continue
            figures = oracle.run(fault, rng)
            rows.append((kind, figures))
            print(_line(figures.fault, kind, figures), flush=True)
    except (Exception, pytest.fail.Exception) as error:  # noqa: BLE001 -- the border of a round; the next one is run
        traceback.print_exc()
        failure = f"FAILED {faults[done - 1].__name__ if done else 'to start'} on {kind}: {error}; see {folder}"
        print(failure, flush=True)
        return max(done, 1), failure
    finally:
        if rig is not None:
            rig.close()
    shutil.rmtree(folder)
    return done, ""


def _line(fault: str, kind: str, one: Figures) -> str:
    return (
        f"{fault:<26} {kind:<9} {one.events:>6} {one.in_flight:>9} {one.started_twice:>5} {one.lost:>4}"
        f" {one.refused:>7} {one.recovery:>7.2f} s {one.took:>6.1f} s{'  LATE' if one.late else ''}"
    )


def _summary(rows, failed: list[str], seconds: float) -> None:
    print(f"\n{'fault':<26} {'count':>5} {'in flight':>9} {'twice':>5} {'lost':>4}   recovery p50 / max   in all p50")
    for name in sorted({one.fault for _, one in rows}):
        mine = [one for _, one in rows if one.fault == name]
        waits = [one.recovery for one in mine]
        print(
            f"{name:<26} {len(mine):>5} {sum(one.in_flight for one in mine):>9}"
            f" {sum(one.started_twice for one in mine):>5} {sum(one.lost for one in mine):>4}"
            f"   {f'{median(waits):.2f} / {max(waits):.2f} s':<18}   {median(one.took for one in mine):.1f} s"
        )
    total = [one for _, one in rows]
    print("", *failed, sep="\n")
    print(
        f"{len(total)} faults in {seconds / 60:.0f} min: {sum(one.events for one in total)} events,"
        f" {sum(one.in_flight for one in total)} in flight, {sum(one.started_twice for one in total)} started twice,"
        f" {sum(one.lost for one in total)} lost; {sum(one.late for one in total)} late, {len(failed)} failed"
    )


if __name__ == "__main__":
    sys.exit(main())
