"""`python -m bench` runs as the documentation says, and writes its files."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_quick_bench_measures_and_writes_tables_plot_and_json(tmp_path):
    command = [sys.executable, "-m", "bench", "--quick", "--only", "floor", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / "results.json").read_text())
    assert document["missing"] == []
    values = {row["who"]: row["values"] for row in document["figures"] if row["what"] == "time"}
    assert all(value > 0 for found in values.values() for value in found)
    together, alone = values["claim and settle, 256 at a time"], values["claim and settle, 1 at a time"]
    assert together < alone, "many at a time cost less each"
    assert (tmp_path / "results.md").read_text() in done.stdout
    assert "| claim and settle, 256 at a time |" in done.stdout
    ET.fromstring((tmp_path / "bench.svg").read_text())
