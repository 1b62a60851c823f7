"""Make broker/runtimes/java_bootstrap/bootstrap.jar of the sources beside it: `python -m tests.java_bootstrap`.

The jar says of which sources and by which compiler it was made, so that a test can tell whether it is up to date.
"""

from __future__ import annotations

import hashlib
import subprocess
import tempfile
import zipfile
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "broker/runtimes/java_bootstrap"
JAR = FOLDER / "bootstrap.jar"
_LONG_AGO = (1980, 1, 1, 0, 0, 0)


def sources() -> str:
    """Return a fingerprint of the sources."""
    digest = hashlib.sha256()
    for path in sorted(FOLDER.glob("*.java")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def compiler() -> str:
    """Return which compiler is here."""
    return subprocess.run(["javac", "-version"], check=True, capture_output=True, text=True).stdout.strip()


def compiled() -> dict[str, bytes]:
    """Return the contents of the jar, made anew."""
    with tempfile.TemporaryDirectory() as folder:
        files = [str(path) for path in sorted(FOLDER.glob("*.java"))]
        subprocess.run(["javac", "--release", "17", "-Xlint:all", "-Werror", "-g", "-d", folder, *files], check=True)
        made = {str(path.relative_to(folder)): path.read_bytes() for path in sorted(Path(folder).rglob("*.class"))}
    return {"SOURCES": sources().encode(), "COMPILER": compiler().encode(), **made}


def shipped() -> dict[str, bytes]:
    """Return the contents of the jar as it is."""
    with zipfile.ZipFile(JAR) as jar:
        return {name: jar.read(name) for name in jar.namelist()}


if __name__ == "__main__":
    with zipfile.ZipFile(JAR, "w", zipfile.ZIP_DEFLATED) as jar:
        for name, data in compiled().items():
            jar.writestr(zipfile.ZipInfo(name, _LONG_AGO), data, zipfile.ZIP_DEFLATED)
    print(f"{JAR}: {JAR.stat().st_size} bytes")
