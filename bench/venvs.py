"""Venvs: one virtual environment a peer, made when it is first needed."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from pathlib import Path

DEFAULT = Path(__file__).resolve().parents[1] / ".bench"
"""Git ignores it."""


class Venvs:
    """The virtual environments in one folder. One that cannot be made is asked for once."""

    def __init__(self, folder: Path, *, make: bool) -> None:
        """Take the folder; without `make` only those are used that are there."""
        self.folder = folder.resolve()
        self._make = make
        self._refused: dict[str, str] = {}

    def bin(self, name: str, requirements: tuple[str, ...]) -> Path:
        """Return the folder of its commands. Raises Missing."""
        place = self.folder / name / "bin"
        if (place / "python").exists() and (self.folder / name / "made").exists():
            return place
        if not self._make:
            raise Missing("its virtual environment is not made yet; `python -m bench` makes it")
        if name not in self._refused:
            self._refused[name] = self._build(name, requirements)
        if self._refused[name]:
            raise Missing(self._refused[name])
        return place

    def versions(self) -> dict[str, str]:
        """Return the installed version of each package that a venv is named after."""
        found = {}
        for place in sorted(self.folder.glob("*/made")):
            for package in place.read_text().splitlines():
                if package.partition("==")[0].lower() == place.parent.name:
                    found[place.parent.name] = package.partition("==")[2]
        return found

    def _build(self, name: str, requirements: tuple[str, ...]) -> str:
        """Make it; return why it cannot be made, or nothing."""
        place = self.folder / name
        print(f"making the virtual environment {place}", file=sys.stderr)
        try:
            shutil.rmtree(place, ignore_errors=True)
            venv.create(place, with_pip=True)
            pip = [str(place / "bin/python"), "-m", "pip", "--disable-pip-version-check"]
            subprocess.run(
                [*pip, "install", "-q", *requirements], capture_output=True, text=True, check=True, timeout=600
            )
            frozen = subprocess.run([*pip, "freeze"], capture_output=True, text=True, check=True, timeout=60)
        except (OSError, subprocess.SubprocessError) as error:
            words = str(getattr(error, "stderr", None) or error).strip().splitlines()
            return f"it cannot be installed: {words[-1] if words else error}"
        (place / "made").write_text(frozen.stdout)
        return ""


class Missing(Exception):
    """A contender cannot be run here."""
