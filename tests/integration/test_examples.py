"""examples/languages: one function in each language, built and run as its configuration says."""

# ruff: noqa: F401, F811 -- pytest finds the imported fixtures by their names

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from broker import config as configuration
from broker.cli.init import init
from broker.config.programs import require_programs
from broker.runtime.messages import Died, Ready
from tests.integration.environment_driver import Driver, driver, nursery

pytestmark = pytest.mark.timeout(120)

EXAMPLES = Path(__file__).parents[2] / "examples/languages"
NAMES = list(tomllib.loads((EXAMPLES / "config.toml").read_text())["functions"])


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("examples") / "languages"
    shutil.copytree(EXAMPLES, folder)
    cache = {"GOCACHE": str(folder.parent / "cache"), "GOFLAGS": "-mod=mod", "GO111MODULE": "off"}
    subprocess.run(["./build.sh"], cwd=folder, check=True, env={**os.environ, **cache})
    return folder


def test_there_is_one_for_each_language() -> None:
    assert set(NAMES) >= {"python", "nodejs", "commonjs", "java", "go", "csharp", "shell", "awslambdaric"}


@pytest.mark.parametrize("name", NAMES)
def test_an_example_counts_words(driver: Driver, built: Path, name: str) -> None:
    config = configuration.load(built / "config.toml", {})
    require_programs(config)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # where awslambdaric is installed
    function = msgspec.structs.replace(config.functions[name], variables={"PATH": path}, init_timeout=60, timeout=60)
    driver.nursery.root = built
    environment = driver.nursery.start(function)
    driver.messages[environment] = []
    ready = driver.wait(environment, lambda message: isinstance(message, Ready | Died), within=60)
    assert isinstance(ready, Ready), (ready, driver.text(environment))
    event = {"specversion": "1.0", "id": "1", "source": "s", "type": "invoke", "data": {"text": "to be or  not to be"}}
    for _ in range(2):
        assert driver.result(environment, event) == {"words": 6, "longest": "not"}
    assert driver.text(environment)[0].startswith("6 words")


@pytest.mark.parametrize("runtime", ["python", "nodejs", "java", "exec"])
def test_what_init_makes_runs(driver: Driver, runtime: str) -> None:
    done = CliRunner().invoke(init, [str(driver.root), "--runtime", runtime])
    assert done.exit_code == 0, done.output
    config = configuration.load(driver.root / "config.toml", {})
    require_programs(config)
    function = msgspec.structs.replace(config.functions["hello"], init_timeout=60, timeout=60)
    environment = driver.nursery.start(function)
    driver.messages[environment] = []
    event = {"specversion": "1.0", "id": "1", "source": "s", "type": "file.created", "subject": "a.csv"}
    assert driver.result(environment, event) == {"seen": True if runtime == "exec" else "a.csv"}
    assert driver.text(environment) == ["file.created: a.csv"]
