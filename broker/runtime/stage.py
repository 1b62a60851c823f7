"""Stage: the folders that an environment stands on, the code's and its layers', and the variables that lead there."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_SITE_PACKAGES = f"python/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"

PLACES: Mapping[str, tuple[str, ...]] = {
    "PYTHONPATH": (_SITE_PACKAGES, "python"),
    "NODE_PATH": ("nodejs/node_modules",),
    "PATH": ("bin", "python/bin", "nodejs/node_modules/.bin"),
    "LD_LIBRARY_PATH": ("lib",),
}
"""Variable -> the folders of a layer that it gets; AWS Lambda's layout below /opt.

https://docs.aws.amazon.com/lambda/latest/dg/packaging-layers.html
"""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Where one version of a function runs."""

    root: Path
    """The folder in which it runs and where its handler is looked for; absolute."""
    layers: tuple[Path, ...] = ()
    """As the function names them: where two have the same file, the later one's is used."""

    def variables(self, own: Mapping[str, str], inherited: Mapping[str, str] = os.environ) -> dict[str, str]:
        """Return the function's own variables, its layers' folders put before the paths that it has or inherits."""
        if not self.layers:
            return dict(own)
        found = dict(own)
        for name in PLACES:
            folders = list(self._folders(name))
            if name == "PYTHONPATH":  # what the function says itself comes first: it may replace a layer's module
                parts = [own.get(name, ""), *folders, inherited.get(name, "")]
            else:
                parts = [*folders, own.get(name) or inherited.get(name, "")]
            if folders:
                found[name] = os.pathsep.join(filter(None, parts))
        return found

    def _folders(self, variable: str) -> Iterator[str]:
        for layer in reversed(self.layers):
            for place in PLACES[variable]:
                if (folder := layer / place).is_dir():
                    yield str(folder)
