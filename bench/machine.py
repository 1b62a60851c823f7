"""Machine: where it was measured, and with which versions."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

from bench import server


def about() -> dict[str, str]:
    """Return what figures depend on besides broker."""
    return {
        "processor": f"{os.cpu_count()} x {_model()}",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / (1 << 30):.0f} GB",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "server": server.version(),
        "broker": version("broker"),
    }


def load() -> float:
    """Return how many processes wanted to run in the last minute, on average."""
    return os.getloadavg()[0]


def _model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
