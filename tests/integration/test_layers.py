"""Layers: built once, shared, found by functions in the right order; what cannot be built harms nobody else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import msgspec
import pytest

from broker.errors import LayerFailed
from broker.layer import Layer
from broker.runtime import layers as building
from broker.runtime.preparing import Task
from tests.conftest import until
from tests.packages import tarball, wheel

NO_INDEX = {
    "UV_OFFLINE": "1",
    "UV_HTTP_RETRIES": "0",
    "UV_INDEX_URL": "http://127.0.0.1:9/",
    "npm_config_registry": "http://127.0.0.1:9/",
}
"""Whoever asks an index, or the network, fails."""

SAYS_VERSION = """
def handler(event, context):
    import tiny
    return [tiny.version, tiny.__file__]
"""


@pytest.fixture(autouse=True)
def no_index(monkeypatch, tmp_path):
    for name, value in NO_INDEX.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv-cache"))
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "npm-cache"))


def layer_folders(root):
    return sorted(path.name for path in (root / ".broker/layers").iterdir() if path.is_dir())


def aws_layer(path, **files):
    """Write a zip in AWS Lambda's layout."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (0o100755 if name.startswith("bin/") else 0o100644) << 16
            archive.writestr(info, text)
    return path


def test_a_function_imports_from_its_layer_and_another_without_it_does_not(project):
    wheel(project.root / "wheels")
    project.configure(
        SAYS_VERSION,
        '[layers.a]\nrequirements = ["./wheels/tiny-1.0-py3-none-any.whl"]\n'
        '[functions.g]\nhandler = "f.py:handler"\nretry = { attempts = 1 }\n'
        '[[triggers]]\nsource = "q"\nfunction = "g"\n',
        layers=["a"],
    )
    project.worker()
    (id,) = project.push(1)
    project.ends(id, within=60)
    version, file = project.result(id)
    assert version == "1.0"
    (digest,) = layer_folders(project.root)
    assert file == str(project.root / ".broker/layers" / digest / "python/tiny.py")
    other = until(lambda: project.client.zrange("rq:failed:g", 0, -1))[0].decode()
    assert project.job(other)["reason"] == "ModuleNotFoundError"


def test_a_built_layer_needs_no_index_and_no_network(project, monkeypatch):
    wheel(project.root / "index/tiny")
    handler = partial(SimpleHTTPRequestHandler, directory=str(project.root / "index"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever).start()
    monkeypatch.setenv("UV_DEFAULT_INDEX", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.delenv("UV_INDEX_URL")
    monkeypatch.delenv("UV_OFFLINE")
    layer, data = Layer(name="a", requirements=["tiny==1.0"]), project.root / ".broker"
    try:
        folder = building.build(layer, project.root, data)
    finally:
        server.shutdown()
        server.server_close()
    shutil.rmtree(project.root / "uv-cache")
    assert building.build(layer, project.root, data) == folder
    with pytest.raises(LayerFailed, match="tiny"):  # another layer does need them
        building.build(Layer(name="b", requirements=["tiny>=1.0"]), project.root, data)
    project.configure(SAYS_VERSION, '[layers.a]\nrequirements = ["tiny==1.0"]\n', layers=["a"])
    project.worker()
    (id,) = project.push(1)
    project.ends(id, within=60)
    assert project.result(id)[0] == "1.0"


def test_what_cannot_be_built_fails_attempts_with_what_the_installer_said_and_harms_no_other(project):
    project.configure(
        SAYS_VERSION,
        '[layers.a]\nrequirements = ["no-such-package-here"]\n'
        '[functions.g]\nhandler = "g.py:handler"\n[[triggers]]\nsource = "p"\nfunction = "g"\n'
        '[sources.p]\nkind = "./quiet.py:Quiet"\n',
        layers=["a"],
        retry={"attempts": 2, "backoff": "fixed", "base": "10ms"},
    )
    (project.root / "g.py").write_text("def handler(event, context): return 7\n")
    project.worker()
    (id,) = project.push(1)
    job = project.ends(id, "failed", within=60)
    assert job["reason"] == "InitFailed"
    text = "\n".join(project.lines(id))
    assert "layer a: uv exited with status" in text
    assert "no-such-package-here" in text
    from broker.event import new_event

    event = new_event(source="p", type="t", data=1)
    (other,) = project.publisher.publish([event])[0].invocations
    project.ends(other)


def test_once_it_can_be_built_what_waited_runs(project):
    (project.root / "r.txt").write_text("--no-index\n--find-links ./wheels\ntiny\n")
    project.configure(
        SAYS_VERSION,
        '[layers.a]\nrequirements = "r.txt"\n',
        layers=["a"],
        retry={"attempts": 50, "backoff": "fixed", "base": "200ms"},
    )
    project.worker()
    (id,) = project.push(1)
    until(lambda: project.job(id).get("failures"), within=60)
    wheel(project.root / "wheels")
    project.ends(id, within=60)
    assert project.result(id)[0] == "1.0"


def test_two_that_build_at_once_build_once(tmp_path):
    wheel(tmp_path / "wheels")
    count = tmp_path / "count"
    uv = tmp_path / "uv"
    uv.write_text(f'#!/bin/sh\necho x >> {count}\nexec "{building.find_uv_bin()}" "$@"\n')
    uv.chmod(0o755)
    code = (
        "import sys; from pathlib import Path; from broker.layer import Layer; from broker.runtime import layers\n"
        "layers.find_uv_bin = lambda: sys.argv[2]; root = Path(sys.argv[1])\n"
        "layer = Layer(name='a', requirements=['./wheels/tiny-1.0-py3-none-any.whl'])\n"
        "print(layers.build(layer, root, root / '.broker'))"
    )
    builders = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(uv)], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    folders = {builder.communicate(timeout=60)[0] for builder in builders}
    assert len(folders) == 1
    assert count.read_text() == "x\n"
    assert Path(folders.pop().strip(), "python/tiny.py").is_file()


def test_what_a_killed_build_left_is_removed_by_the_next(tmp_path):
    layer = Layer(name="a", path="imaging")
    (tmp_path / "imaging/python").mkdir(parents=True)
    (tmp_path / "imaging/python/m.py").write_text("")
    folder = building.build(layer, tmp_path, tmp_path / ".broker")
    left = folder.parent / f".{folder.name[:16]}.dead"
    left.mkdir()
    shutil.rmtree(folder)
    assert building.build(layer, tmp_path, tmp_path / ".broker") == folder
    assert not left.exists()


def test_later_layers_come_before_earlier_and_the_functions_own_before_all(project):
    for number in range(1, 6):
        files = {f"python/only{number}.py": "", "python/shared.py": f"n = {number}\n"}
        files |= {"bin/tool": f"#!/bin/sh\necho {number}\n", "python/own.py": "n = 'layer'\n", f"lib/l{number}.so": ""}
        files["nodejs/node_modules/shared/index.js"] = f"module.exports = {number}"
        aws_layer(project.root / f"l{number}.zip", **files)
    (project.root / "own.py").write_text("n = 'function'\n")
    project.configure(
        """
        import os, subprocess
        import only1, only2, only3, only4, only5, shared, own
        def handler(event, context):
            node = ["node", "-p", "require('shared')"]
            heads = [os.environ[name].split(":") for name in ("LD_LIBRARY_PATH", "PATH")]
            return {
                "shared": shared.n, "own": own.n,
                "tool": subprocess.check_output(["tool"], text=True), "libs": len(heads[0]),
                "python": subprocess.check_output(["python3", "-c", "import shared; print(shared.n)"], text=True),
                "node": subprocess.check_output(node, text=True),
            }
        """,
        "".join(f'[layers.l{number}]\npath = "l{number}.zip"\n' for number in range(1, 6)),
        layers=["l1", "l2", "l3", "l4", "l5"],
    )
    project.worker()
    (id,) = project.push(1)
    project.ends(id, within=60)
    expected = {"shared": 5, "own": "function", "tool": "5\n", "python": "5\n", "node": "5\n"}
    result = project.result(id)
    assert result.pop("libs") >= 5
    assert result == expected


def test_npm_packages_are_found_by_node(project):
    tarball(project.root / "vendor", "tiny", "2.0.0")
    project.configure(
        """
        import subprocess
        def handler(event, context):
            return subprocess.check_output(["node", "-p", "require('tiny')"], text=True)
        """,
        '[layers.a]\npackages = ["./vendor/tiny-2.0.0.tgz"]\n',
        layers=["a"],
    )
    project.worker()
    (id,) = project.push(1)
    project.ends(id, within=60)
    assert project.result(id) == "2.0.0\n"


def test_a_zip_whose_paths_lead_out_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as bad:
        bad.writestr("python/m.py", "")
        bad.writestr("../escaped", "")
    with pytest.raises(LayerFailed, match=r"layer a: bad\.zip: .*leads out"):
        building.build(Layer(name="a", path="bad.zip"), tmp_path, tmp_path / ".broker")
    assert not list((tmp_path / ".broker/layers").glob("[0-9a-f]*/"))


@pytest.mark.parametrize("target", ["/etc", "../../etc"])
def test_a_folder_whose_links_lead_out_is_refused(tmp_path, target):
    (tmp_path / "l/python").mkdir(parents=True)
    (tmp_path / "l/python/within").symlink_to("../python")
    building.build(Layer(name="l", path="l"), tmp_path, tmp_path / "data")
    (tmp_path / "l/python/out").symlink_to(target)
    with pytest.raises(LayerFailed, match=f"python/out is a link to {target}, which is outside"):
        building.build(Layer(name="l", path="l"), tmp_path, tmp_path / "data")
    assert len(list((tmp_path / "data/layers").glob("[0-9a-f]*[0-9a-f]"))) == 1


def test_other_users_may_read_a_layer_whatever_the_umask_says(tmp_path):
    aws_layer(tmp_path / "l.zip", **{"python/p/__init__.py": "", "bin/run": ""})
    before = os.umask(0o077)
    try:
        folder = building.build(Layer(name="l", path="l.zip"), tmp_path, tmp_path / "data")
    finally:
        assert os.umask(before) == 0o077
    for path in (folder.parent, folder, folder / "python", folder / "python/p", folder / "bin/run"):
        assert path.stat().st_mode & 0o755 == 0o755
    assert folder.parents[1].stat().st_mode & 0o777 == 0o700  # the data folder itself


def test_no_secret_of_the_broker_reaches_an_installer(tmp_path, monkeypatch):
    monkeypatch.setenv("REDIS_PASSWORD", "hush")
    uv = tmp_path / "uv"
    uv.write_text(f"#!/bin/sh\nenv > {tmp_path}/env\n")
    uv.chmod(0o755)
    monkeypatch.setattr(building, "find_uv_bin", lambda: str(uv))
    building.build(Layer(name="a", requirements=["x"]), tmp_path, tmp_path / ".broker")
    told = (tmp_path / "env").read_text()
    assert "UV_OFFLINE=1" in told
    assert "hush" not in told


@pytest.mark.skipif(sys.platform != "linux", reason="PR_GET_DUMPABLE is Linux'")
def test_who_builds_keeps_its_variables_and_memory_from_functions(tmp_path):
    program = "import ctypes; from broker.runtime.preparing import main; main(); print(ctypes.CDLL(None).prctl(3))"
    task = msgspec.json.encode(Task(root=str(tmp_path), data="data", redis="redis://:secret@host/"))
    done = subprocess.run([sys.executable, "-c", program], input=task, stdout=subprocess.PIPE, check=True)
    assert done.stdout.endswith(b"}0\n")


def test_the_command_lists_builds_and_prunes(project):
    wheel(project.root / "wheels")
    tables = (
        '[layers.good]\nrequirements = ["./wheels/tiny-1.0-py3-none-any.whl"]\n'
        '[layers.bad]\nrequirements = ["no-such-package-here"]\n'
    )
    project.configure(SAYS_VERSION, tables, layers=["good"])

    def broker(*words):
        command = [sys.executable, "-m", "broker", "layers", *words, "--json", "-c", str(project.root / "config.toml")]
        done = subprocess.run(command, capture_output=True, text=True)
        return done.returncode, json.loads(done.stdout)

    assert [row["state"] for row in broker("list")[1]] == ["not built", "not built"]
    code, rows = broker("build")
    assert code == 1
    assert rows[0]["error"] is None
    assert "no-such-package-here" in rows[1]["error"]
    good, bad = broker("list")[1]
    assert (good["state"], good["functions"], bad["state"]) == ("built", ["f"], "not built")
    assert good["bytes"] > 0
    assert broker("prune") == (0, [])
    project.configure(SAYS_VERSION, "")
    code, removed = broker("prune")
    assert [row["hash"] for row in removed] == [good["folder"].rpartition("/")[2]]
    assert layer_folders(project.root) == []
