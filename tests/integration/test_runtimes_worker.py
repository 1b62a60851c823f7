"""Each runtime under a real worker: log, dead letter, batch, and init that fails."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from broker import tail
from tests.conftest import until

pytestmark = pytest.mark.timeout(120)

FILES = Path(__file__).parents[1] / "data/runtimes"

HANDLERS = {
    "python": "sink.py:handler",
    "nodejs": "sink.mjs:handler",
    "java": "classes:Sink::handler",
    "provided": "bootstrap:sink.handler",
    "exec": "./sink.sh",
}
BROKEN = {
    "python": ("broken.py", "broken.py:handler", "import time\nopen('{0}', 'a').write(f'{{time.time()}}\\n')\n1 / 0\n"),
    "nodejs": (
        "broken.cjs",
        "broken.cjs:handler",
        "require('fs').appendFileSync('{0}', `${{Date.now() / 1000}}\\n`);\nnull.x;\n",
    ),
    "java": ("classes/Broken.class", "classes:Broken::handle", ""),
    "provided": ("broken", "./broken", "#!/bin/sh\ndate +%s.%N >> {0}\nexit 3\n"),
}
JAVA = """
class Broken {
    static {
        try (var out = new java.io.FileWriter("%s", true)) {
            out.write(System.currentTimeMillis() / 1000.0 + "\\n");
        } catch (java.io.IOException e) {
            throw new IllegalStateException(e);
        }
        if (true) throw new IllegalStateException("broken");
    }
    static Object handle(Object event) { return event; }
}
"""


def table(name, handler, runtime, **more):
    lines = {"handler": handler, "runtime": runtime, "payload": "data", "init_timeout": "60s", "timeout": "60s", **more}
    text = "".join(f"{key} = {value if key == 'retry' else json.dumps(value)}\n" for key, value in lines.items())
    return f'[functions.{name}]\n{text}[[triggers]]\nsource = "q"\nfunction = "{name}"\npattern.data.to = ["{name}"]\n'


@pytest.fixture
def sinks(project):
    for name in ("sink.py", "sink.mjs", "bootstrap", "sink.sh"):
        shutil.copy(FILES / name, project.root / name)
    subprocess.run(["javac", "-d", project.root / "classes", FILES / "Sink.java"], check=True)
    functions = "".join(table(name, handler, name, retry="{ attempts = 1 }") for name, handler in HANDLERS.items())
    project.configure("def handler(event, context): return None\n", functions)
    return project


def test_every_runtime_answers_fails_and_logs_alike(sinks):
    sinks.worker()
    for name in HANDLERS:
        done, failed = (
            next(id_ for id_ in receipt.invocations if sinks.job(id_)["description"] == name)
            for receipt in (
                sinks.publish({"to": name, "do": "shout", "with": "x"})[0],
                sinks.publish({"to": name, "do": "fail"})[0],
            )
        )
        sinks.ends(done, within=60)
        lines = [line.text for line in tail.read(sinks.client, [name], invocation=done)]
        assert lines[0].startswith(f"START RequestId: {done}")
        assert [line for line in lines if line.startswith(("out", "child"))] == [
            "out 0 x",
            "out 1 x",
            "out 2 x",
            "child",
        ]
        assert "err x" in lines
        assert lines[-2] == f"END RequestId: {done}"
        assert lines[-1].startswith(f"REPORT RequestId: {done}")
        assert "Init Duration: " in lines[-1]
        dead = sinks.ends(failed, "failed", within=60)
        assert dead["reason"] == ("Runtime.ExitError" if name == "exec" else "Trouble"), dead
        lines = [line.text for line in tail.read(sinks.client, [name], invocation=failed)]
        assert "Status: error" in lines[-1]
        assert any((line.startswith("[ERROR] ") and "Trouble" in line) or name == "exec" for line in lines)


@pytest.mark.parametrize("runtime", BROKEN)
def test_an_environment_that_dies_in_init_is_not_started_again_and_again(project, runtime):
    name, handler, code = BROKEN[runtime]
    starts = project.root / "starts.txt"
    if runtime == "java":
        (project.root / "Broken.java").write_text(JAVA % starts)
        subprocess.run(["javac", "-d", project.root / "classes", project.root / "Broken.java"], check=True)
    else:
        (project.root / name).write_text(code.format(starts))
        (project.root / name).chmod(0o755)
    tables = table("broken", handler, runtime, retry="{ attempts = 1 }")
    project.configure("def handler(event, context): return None\n", tables)
    ids = [
        id_
        for _ in range(20)
        for id_ in project.publish({"to": "broken"})[0].invocations
        if project.job(id_)["description"] == "broken"
    ]
    project.worker()

    def dead():
        return [id_ for id_ in ids if project.job(id_).get("status") == "failed"]

    until(lambda: len(dead()) >= 3, within=60)
    times = [float(line) for line in starts.read_text().split()]
    gaps = [later - sooner for sooner, later in itertools.pairwise(times)]
    assert all(gap > 0.2 * 2**number for number, gap in enumerate(gaps, 1)), gaps
    assert len(times) <= len(dead()) + 1
    reasons = {project.job(id_)["reason"] for id_ in dead()}
    assert reasons == ({"Exited"} if runtime == "provided" else {"InitFailed"})
