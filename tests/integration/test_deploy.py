"""Deploy: a pushed script runs at once, on every host, as one version at a time, and nothing is lost meanwhile."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

import msgspec
import pytest

from broker import cli
from broker import config as configuration
from broker.deployed import catalog, code, packing
from broker.deployed.deploying import deploy
from broker.deployed.functions import Functions
from broker.deployed.record import LIVE, Alias, Record
from broker.errors import BadArchive, DeployFailed, StoreUnavailable
from broker.event import new_event
from broker.layer import Layer
from broker.ledger import Ledger
from broker.publisher import Publisher
from broker.runtime.preparing import Task, prepare
from broker.runtime.staging import AT_ONCE
from broker.worker import Worker
from tests.conftest import until
from tests.integration.test_worker_odds import on_claims, turning

CODE = """
import time
import part
def handler(event, context):
    return ["{mark}", part.mark, context.function_version, event["data"]]
"""


def packed(folder: Path, mark: str = "a", text: str = CODE) -> packing.Packed:
    """Write a folder of two files that say which version they are of, and pack it."""
    source, work = folder / f"src-{mark}", folder / f"work-{mark}"
    source.mkdir(exist_ok=True)
    work.mkdir(exist_ok=True)
    (source / "main.py").write_text(text.replace("{mark}", mark))
    (source / "part.py").write_text(f"mark = {mark!r}\n")
    return packing.pack(source, work)


OPTIONS = {"handler": "main.py:handler", "runtime": "python"}


@pytest.fixture
def pushed(project):
    """Deploy a version as function `d`, for the events of q."""
    project.configure("def handler(event, context): return 'f'")

    def push(mark="a", text=CODE, **how):
        how = {"triggers": [{"source": "q"}], **how}
        return deploy(
            project.client, "d", packed(project.root, mark, text), {**OPTIONS, **how.pop("options", {})}, **how
        )

    return push


def send(project, *data):
    """Publish on q; the ids of what d is owed."""
    events = [new_event(source="q", type="t", data=one) for one in data]
    receipts = Publisher(project.config, Ledger(project.client)).publish(events)
    return [id for receipt in receipts for id in receipt.invocations if project.job(id)["origin"] == "d"]


@pytest.fixture
def broker(project, capfd, monkeypatch):
    """Run a command in this process; its exit code, and what it printed."""

    monkeypatch.setattr("sys.stdin", io.StringIO())

    def run(*words):
        capfd.readouterr()
        returncode = cli.main([*words, "-c", str(project.root / "config.toml")])
        return subprocess.CompletedProcess(words, returncode, *capfd.readouterr())

    return run


def test_a_deployed_function_runs_at_once_and_its_next_version_after_it(project, pushed):
    project.worker()
    assert pushed("a")[1] == 1
    (id,) = send(project, 1)
    project.ends(id)
    assert project.result(id) == ["a", "a", "1", 1]
    pushed("b")
    (id,) = send(project, 2)
    project.ends(id)
    assert project.result(id) == ["b", "b", "2", 2]
    assert pushed("b")[1] == 2  # nothing has changed
    from rq import Queue, Worker

    (worker,) = Worker.all(queue=Queue("d", connection=project.client))
    assert worker.queue_names() == ["d", "f"]


def test_what_was_published_before_a_worker_lived_runs_deployed_code(project, pushed):
    pushed("a")
    ids = send(project, *range(20))
    project.worker()
    for id in ids:
        assert project.ends(id)
    assert {project.result(id)[0] for id in ids} == {"a"}


def test_a_function_of_the_configuration_gets_other_code_and_keeps_its_limits(project):
    project.configure("def handler(event, context): return 'file'", timeout="7s", variables={"MODE": "fast"})
    project.worker()
    text = "import os\ndef handler(e, c): return [os.environ['MODE'], c.get_remaining_time_in_millis() > 6000]\n"
    deploy(project.client, "f", packed(project.root, "x", text), OPTIONS)
    (id,) = project.push(1)
    project.ends(id)
    assert project.result(id) == ["fast", True]
    catalog.change(project.client, "f", lambda record: record.with_alias(LIVE, Alias(version=0)))
    (id,) = project.push(1)
    project.ends(id)
    assert project.result(id) == "file"
    (project.root / "f.py").write_text("def handler(event, context): return 'edited'\n")

    def runs_what_was_edited():
        (id,) = project.push(1)
        project.ends(id)
        return project.result(id) == "edited"

    until(runs_what_was_edited)


def test_events_of_a_function_that_is_still_to_be_deployed_wait_for_it(project):
    project.configure("", "[functions.g]\nhandler = 'deployed'\n[[triggers]]\nsource = 'q'\nfunction = 'g'\n")
    project.worker()
    (event,) = project.publisher.publish([new_event(source="q", type="t", data=1)])
    id = next(id for id in event.invocations if project.job(id)["origin"] == "g")
    other = next(each for each in event.invocations if each != id)
    project.ends(other, "failed")  # f.py is empty; the worker has looked at all queues by now
    assert project.job(id)["status"] == "queued"
    deploy(project.client, "g", packed(project.root), OPTIONS)
    project.ends(id)


def test_deploys_while_events_run_lose_none_and_mix_none(project, pushed):
    slow = CODE.replace("return", "time.sleep(0.002); return")
    pushed("v1", slow)
    project.worker()
    project.worker()
    ids = []
    for number in range(2, 6):
        some = send(project, *range(60))
        ids += some
        until(lambda some=some: any(project.job(id)["status"] == "finished" for id in some), within=60)
        pushed(f"v{number}", slow)
    ids += send(project, *range(60))
    for id in ids:
        project.ends(id, within=60)
    results = [project.result(id) for id in ids]
    assert all(mark == part == f"v{version}" for mark, part, version, _ in results)
    assert all(project.job(id)["attempt"] == "1" for id in ids)
    assert {version for _, _, version, _ in results} == {"1", "2", "3", "4", "5"}
    assert {version for _, _, version, _ in results[-60:]} == {"5"}


def test_shares_are_kept_and_a_retry_stays_on_its_version(project, pushed):
    failing = """
def handler(event, context):
    if context.attempt == 1:
        raise ValueError(context.function_version)
    return context.function_version
"""
    retry = {"retry": {"attempts": 3, "backoff": "fixed", "base": "10ms"}}
    pushed("a", failing, options=retry)
    record, _ = pushed("b", failing + "# other\n", options=retry, share=0.3)
    project.worker()
    ids = send(project, *range(120))
    for id in ids:
        project.ends(id, within=60)
    ran = {id: project.result(id) for id in ids}
    assert ran == {id: str(record.live.pick(id)) for id in ids}
    assert set(ran.values()) == {"1", "2"}
    from broker import tail

    for line in tail.read(project.client, ["d"]):
        if line.text.startswith("START"):
            assert line.text.endswith(f" Version: {ran[line.invocation]}")
        if line.text.startswith("REPORT"):
            assert line.text.endswith(f"\tVersion: {ran[line.invocation]}")


def test_the_events_of_a_batch_run_their_own_versions(project, pushed):
    text = "def handler(events, context): return [context.function_version, len(events)]\n"
    batch = {"batch": {"size": 50, "window": "100ms"}}
    pushed("a", text, options=batch)
    record, _ = pushed("b", text + "# other\n", options=batch, share=0.5)
    ids = send(project, *range(40))
    project.worker()
    for id in ids:
        project.ends(id)
    counts = Counter(record.live.pick(id) for id in ids)
    assert len(counts) == 2
    assert all(project.result(id) == [str(record.live.pick(id)), counts[record.live.pick(id)]] for id in ids)


def test_two_hosts_that_share_nothing_but_redis_fetch_it_each(project, pushed, tmp_path_factory):
    other = type(project)(tmp_path_factory.mktemp("other"), project.client, project.url)
    other.configure("def handler(event, context): return 'f'")
    try:
        pushed("a", CODE.replace("return", "time.sleep(0.02); return"))
        project.worker()
        other.worker()
        until(lambda: project.client.zcard("broker:workers") == 2)
        ids = send(project, *range(100))
        for id in ids:
            project.ends(id, within=60)
        assert {project.result(id)[0] for id in ids} == {"a"}
        for host in (project, other):
            until(lambda host=host: list(host.root.glob(".broker/code/[0-9a-f]*/main.py")), within=30)
    finally:
        other.close()


def test_a_deploy_that_is_killed_halfway_changes_nothing(project, pushed):
    pushed("a")
    program = (
        "import sys, os, signal; from pathlib import Path; import redis; from broker.deployed import code, packing\n"
        "from broker.deployed.deploying import deploy\n"
        "def die(_): os.kill(os.getpid(), signal.SIGKILL)\n"
        "packed = packing.pack(Path(sys.argv[2]), Path(sys.argv[3]))\n"
        "deploy(redis.Redis.from_url(sys.argv[1]), 'd', packed, {'handler': 'main.py:handler', 'runtime': 'python'},"
        " progress=die)"
    )
    big = project.root / "big"
    big.mkdir()
    (big / "main.py").write_text(CODE)
    (big / "noise").write_bytes(os.urandom(2 << 20))
    (project.root / "killed").mkdir()
    words = [sys.executable, "-c", program, project.url, str(big), str(project.root / "killed")]
    assert subprocess.run(words, check=False, timeout=60).returncode == -signal.SIGKILL
    _, records = catalog.read(project.client)
    assert records["d"].live.version == 1
    stray = [key for key in project.client.keys("broker:code:*") if project.client.ttl(key) > 0]
    assert len(stray) == 1  # what was sent expires
    assert [project.client.ttl(key) for key in project.client.keys("broker:code:*") if key not in stray] == [-1]
    project.worker()
    (id,) = send(project, 1)
    project.ends(id)
    assert project.result(id)[2] == "1"


def test_what_was_sent_before_a_deploy_died_is_not_sent_again(project):
    (project.root / "noise").write_bytes(os.urandom(3 * code.PIECE + 5))
    code.put(project.client, "digest", project.root / "noise")
    assert code.is_complete(project.client, "digest")
    project.client.hdel("broker:code:digest", "2")
    assert not code.is_complete(project.client, "digest")
    before = project.client.info("commandstats")["cmdstat_hset"]["calls"]
    code.put(project.client, "digest", project.root / "noise")
    assert project.client.info("commandstats")["cmdstat_hset"]["calls"] == before + 1
    assert code.is_complete(project.client, "digest")


def test_a_version_that_is_slow_draws_no_more_to_a_worker_than_it_can_run(project, pushed, broker):
    pushed("a", "def handler(event, context): return 1\n")
    pushed("b", "import time\ndef handler(event, context): time.sleep(60 if event['data'] else 0)\n")
    assert broker("alias", "d", "live", "--version", "1", "--weight", "2=50%").returncode == 0
    worker = Worker(project.config, project.client)
    worker._begin()
    try:
        warm = send(project, *[0] * 12)
        assert turning(worker, lambda: all(project.job(id)["status"] == "finished" for id in warm))
        send(project, *range(1, 3001))
        assert turning(worker, lambda: not worker._pool.vacancies(worker.functions["d"], time.monotonic()))
        assert project.client.llen("rq:queue:d") > 0
    finally:
        worker._end()


def test_a_damaged_piece_is_refused_and_runs_once_it_is_mended(project, pushed):
    record, _ = pushed("a", options={"retry": {"attempts": 100, "backoff": "fixed", "base": "200ms"}})
    key = code.key(record.versions[1].code)
    piece = project.client.hget(key, "0")
    project.client.hset(key, "0", piece[:-1] + bytes([piece[-1] ^ 1]))
    with pytest.raises(BadArchive, match="not what was stored"):
        code.get(project.client, record.versions[1].code, project.root / "got.zip")
    project.worker()
    (id,) = send(project, 1)
    until(lambda: project.job(id).get("reason") == "InitFailed", within=30)
    assert not list(project.root.glob(".broker/code/[0-9a-f]*/main.py"))
    project.client.hset(key, "0", piece)
    project.ends(id, within=30)


def test_code_that_no_version_refers_to_is_removed_and_never_that_of_another(project, pushed):
    record, _ = pushed("a")
    deploy(project.client, "twin", packed(project.root, "a"), OPTIONS)
    for number in range(12):
        record, _ = pushed(f"n{number}")
    kept = {code.key(version.code).encode() for version in record.versions.values()}
    shared = code.key(packed(project.root, "a").digest).encode()
    assert set(project.client.keys("broker:code:*")) == kept | {shared}
    catalog.change(project.client, "twin", lambda old: Record(name=old.name, last=old.last))
    assert set(project.client.keys("broker:code:*")) == kept


def test_a_version_is_made_only_of_code_that_is_all_there(project, pushed, monkeypatch):
    monkeypatch.setattr(code, "put", lambda *_: None)
    with pytest.raises(DeployFailed, match="gone again"):
        pushed("a")
    assert catalog.read(project.client) == (0, {})


def test_builds_that_hang_hold_up_no_deploy(project, pushed, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as index:  # it never answers
        monkeypatch.setenv("UV_INDEX_URL", f"http://127.0.0.1:{index.getsockname()[1]}/")
        tables = (
            f'[layers.l{n}]\nrequirements = ["zz-{n}"]\n[functions.f{n}]\nhandler = "f.py:handler"\nlayers = ["l{n}"]\n'
            for n in range(3)
        )
        project.configure("def handler(event, context): return 'f'", "".join(tables))
        project.worker()
        unfinished = partial(project.root.glob, ".broker/layers/.*")
        until(lambda: len(list(unfinished())) == AT_ONCE, within=30)
        pushed("a")
        (id,) = send(project, 1)
        project.ends(id, within=30)
        assert project.result(id)[0] == "a"
        assert len(list(unfinished())) == AT_ONCE


def test_a_record_that_cannot_be_read_hinders_no_other_function(project, pushed, caplog):
    pushed("a")
    foreign = {"name": "newer", "triggers": [{"source": "q", "function": "d", "new": 1}]}
    later = catalog.read(project.client)[1]["d"]
    foreign["versions"] = {"1": msgspec.to_builtins(later.versions[1])}
    foreign["aliases"] = {"live": {"version": 1}}
    rows = {"broken": "{", "bytes": b"\xff", "path": '{"name":"path","versions":{"1":{"code":"../x"}}}'}
    project.client.hset(catalog.FUNCTIONS, mapping={**rows, "newer": json.dumps(foreign), b"\xfe": "{"})
    project.client.incr(catalog.CHANGES)
    now = Functions(project.config, project.client).now
    assert {"d", "newer"} <= set(now.by_name)
    assert not {"broken", "bytes", "path"} & set(now.by_name)
    for name in (*rows, "newer", r"\\xfe"):
        assert name in caplog.text
    with pytest.raises(DeployFailed, match="cannot be read"):
        pushed("b")
    project.worker()
    (id,) = send(project, 1)
    project.ends(id, within=30)


def test_two_that_deploy_at_once_make_two_versions(project, pushed):
    program = (
        "import sys; from pathlib import Path; import redis; from broker.deployed import packing\n"
        "from broker.deployed.deploying import deploy\n"
        "options = {'handler': 'main.py:handler', 'runtime': 'python'}; client = redis.Redis.from_url(sys.argv[1])\n"
        "for n in range(5):\n"
        "    work = Path(sys.argv[3], str(n)); work.mkdir(parents=True)\n"
        "    Path(sys.argv[2], 'part.py').write_text(f'mark = {sys.argv[3]!r}, {n}')\n"
        "    deploy(client, 'd', packing.pack(Path(sys.argv[2]), work), options)\n"
    )
    both = []
    for name in "xy":
        packed(project.root, name)
        words = [
            sys.executable,
            "-c",
            program,
            project.url,
            str(project.root / f"src-{name}"),
            str(project.root / name),
        ]
        both.append(subprocess.Popen(words))
    assert [process.wait(60) for process in both] == [0, 0]
    assert sorted(catalog.read(project.client)[1]["d"].versions) == list(range(1, 11))


def test_the_commands_deploy_list_share_and_roll_back(project, broker):
    project.configure("def handler(event, context): return 'f'", "[layers.l]\npath = 'l'\n")
    (project.root / "l/python").mkdir(parents=True)
    (project.root / "l/python/dep.py").write_text("n = 5\n")
    project.worker()
    script = project.root / "hello.py"
    script.write_text("import os\ndef handler(event, context):\n    import dep\n    return [dep.n, os.environ['A']]\n")
    words = ["deploy", str(script), "--layer", "l", "--env", "A=b", "--set", "retry={attempts = 1}", "--trigger", "q"]
    done = broker(*words)
    assert (done.returncode, done.stdout[:34]) == (0, "hello: version 1 is live (python, "), done.stderr
    assert json.loads(broker("invoke", "hello").stdout) == [5, "b"]
    script.write_text("def handler(event, context): return 2\n")
    assert "version 2 is live for 25%" in broker("deploy", str(script), "--weight", "25%").stdout
    assert broker("invoke", "hello:2").stdout == "2\n"
    assert "no alias or version '7'" in broker("invoke", "hello:7").stderr
    rows = json.loads(broker("versions", "hello", "--json").stdout)
    assert [(row["version"], row["aliases"]) for row in rows] == [(2, LIVE), (1, LIVE)]
    assert broker("alias", "hello", "stage", "--version", "2").returncode == 0
    assert broker("invoke", "hello:stage").stdout == "2\n"
    for more in ([], ["--remove"]):
        assert "there is no alias 'stag'" in broker("alias", "hello", "stag", *more).stderr
    assert [row["alias"] for row in json.loads(broker("alias", "hello", "stage", "--remove", "--json").stdout)] == [
        LIVE
    ]
    assert "has no version 9" in broker("alias", "hello", LIVE, "--version", "9").stderr
    assert broker("rollback", "hello").stdout == "hello: version 1 is live\n"
    assert broker("rollback", "hello", "--to", "2").stdout == "hello: version 2 is live\n"
    (listed,) = json.loads(broker("versions", "--json").stdout)
    assert (listed["name"], listed["live"], listed["triggers"]) == ("hello", 2, [{"source": "q"}])
    assert json.loads(broker("versions", "hello", "--prune", "--json").stdout)[0]["version"] == 2
    newest = json.loads(broker("runs", "hello", "--json").stdout)[0]["id"]
    assert json.loads(broker("show", newest, "--json").stdout)["version"] == "2"
    refused = broker("undeploy", "hello")
    assert (refused.returncode, "Nobody is there to say so: add --yes" in refused.stderr) == (2, True)
    assert broker("versions", "hello").returncode == 0
    assert broker("undeploy", "hello", "--yes").returncode == 0
    assert "there is no function 'hello'" in broker("invoke", "hello").stderr
    assert configuration.load(project.root / "config.toml").functions.keys() == {"f"}
    assert broker("versions").stdout.startswith("nothing was deployed")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--timeout", "soon"], "deploy: functions.d.timeout: expected a duration"),
        (["--memory", "1MB"], "functions.d.memory: expected at least"),
        (["--layer", "none"], "there is no layer"),
        (["--set", "on_success=nobody"], "there is no function"),
        (["--set", "retri=1"], 'did you mean "retry"'),
        (["--set", "user=root"], "for each host's config.toml"),
        (["--trigger", "p"], "there is no source 'p'"),
        (["--trigger", "q", "--pattern", '{"x": 1}'], "x"),
        (["--name", "a.b"], "a name is letters"),
        (["--name", "f", "--timeout", "1s"], "timeout of f stands in"),
        (["--handler", "d.py:nothing"], "d.py has no 'nothing'; it defines handler"),
        (["--weight", "110%"], "expected a share"),
    ],
)
def test_what_is_wrong_is_refused_before_anything_is_stored(project, broker, words, said):
    project.configure("def handler(event, context): return 'f'")
    script = project.root / "d.py"
    script.write_text("def handler(event, context): ...\n")
    done = broker("deploy", str(script), *words)
    assert done.returncode in {1, 2}
    assert said in done.stderr
    assert not project.client.keys("broker:*")


def test_scripts_of_other_languages_are_deployed_with_their_layers(project, broker):
    project.configure("def handler(event, context): return 'f'", "[layers.l]\npath = 'l'\n")
    module = project.root / "l/nodejs/node_modules/dep"
    module.mkdir(parents=True)
    (module / "index.js").write_text("module.exports = 7\n")
    program = project.root / "l/bin/dep"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 8\n")
    program.chmod(0o755)
    (project.root / "index.js").write_text("exports.handler = async () => require('dep')\n")
    (project.root / "run.sh").write_text("#!/bin/sh\ndep\n")
    (project.root / "run.sh").chmod(0o755)
    project.worker()
    for name, expected in (("index.js", 7), ("run.sh", 8)):
        done = broker("deploy", str(project.root / name), "--layer", "l")
        assert done.returncode == 0, done.stderr
        (id,) = invoke(project, name.partition(".")[0])
        project.ends(id, within=60)
        assert project.result(id) == expected


def test_any_names_and_links_that_lead_nowhere_are_deployed(project, broker):
    project.configure("def handler(event, context): return 'f'")
    folder = project.root / "d"
    folder.mkdir()
    (folder / "main.py").write_text("def handler(event, context): return sorted(__import__('os').listdir('.'))\n")
    (folder / ".code.zip").write_text("")
    (folder / ".#main.py").symlink_to("somebody@host.1:2")  # as editors leave them
    (folder / "größe 1\n.txt").write_text("")
    done = broker("deploy", str(folder))
    assert done.returncode == 0, done.stderr
    project.worker()
    (id,) = invoke(project, "d")
    project.ends(id, within=60)
    assert project.result(id) == [".#main.py", ".code.zip", "größe 1\n.txt", "main.py"]


def test_deployed_code_and_layers_are_seen_inside_a_bubble(project, broker):
    project.configure("def handler(event, context): return 'f'", "[layers.l]\npath = 'l'\n")
    (project.root / "l/python").mkdir(parents=True)
    (project.root / "l/python/dep.py").write_text("n = 5\n")
    text = "import os, dep\ndef handler(event, context): return [dep.n, os.listdir('.'), os.listdir('..')]\n"
    (project.root / "d.py").write_text(text)
    done = broker("deploy", str(project.root / "d.py"), "--layer", "l", "--set", "isolation=bwrap")
    assert done.returncode == 0, done.stderr
    project.worker()
    (id,) = invoke(project, "d")
    project.ends(id, within=60)
    number, seen, beside = project.result(id)
    assert (number, seen, len(beside)) == (5, ["d.py"], 1)


def test_another_user_may_pass_through_the_data_folder_and_see_nothing_else_there(project):
    data = project.root / ".broker"
    data.mkdir(mode=0o700)
    (project.root / "l/python").mkdir(parents=True)
    task = Task(root=str(project.root), data=".broker", redis=None, layers=[Layer(name="l", path="l")])
    prepare(task)
    assert data.stat().st_mode & 0o777 == 0o700
    folder = Path(prepare(msgspec.structs.replace(task, others=True)).layers[0])
    assert data.stat().st_mode & 0o777 == 0o711
    assert folder.stat().st_mode & 0o777 == 0o755


def test_a_host_that_refuses_deploys_neither_makes_nor_runs_them(project, pushed, broker):
    pushed("a")
    text = (project.root / "config.toml").read_text()
    (project.root / "config.toml").write_text(text.replace("[broker]", "[broker]\ndeploy = false"))
    (project.root / "d.py").write_text("def handler(event, context): ...\n")
    assert "deploy = false" in broker("deploy", str(project.root / "d.py")).stderr
    assert send(project, 1) == []


def test_what_vanishes_from_the_hosts_code_meanwhile_harms_no_fetch(project, pushed):
    record, _ = pushed("a")
    folders = project.root / ".broker/code"
    folders.mkdir(parents=True)
    (folders / ".other").symlink_to("nowhere")  # it is listed, and not there when looked at
    task = Task(
        root=str(project.root), data=".broker", redis=project.config.settings.redis, code=record.versions[1].code
    )
    assert prepare(task).refusal == ""


def test_code_that_nobody_needs_leaves_the_hosts_a_day_later(project, pushed):
    project.worker()
    pushed("a")
    folders = project.root / ".broker/code"
    (old,) = until(lambda: list(folders.glob("[0-9a-f]*/main.py")), within=30)
    catalog.change(project.client, "d", lambda record: Record(name="d", last=record.last))
    pushed("b")
    until(lambda: len(list(folders.glob("[0-9a-f]*/main.py"))) == 2, within=30)
    day_before = old.parent.stat().st_mtime - 90_000
    os.utime(old.parent, (day_before, day_before))
    pushed("c")
    until(lambda: not old.exists(), within=30)
    until(lambda: len(list(folders.glob("[0-9a-f]*/main.py"))) == 2, within=30)


def invoke(project, name, qualifier=""):
    """Publish for one function, past all triggers; the invocation's id."""
    publisher = Publisher(project.config, Ledger(project.client))
    order = publisher.order_for(name, new_event(source="cli", type="t", data=1), qualifier=qualifier)
    publisher.publish_orders(["e"], [[order]])
    return [order.id]


def test_a_claim_whose_answer_was_lost_is_given_back_also_when_its_function_is_gone(project, pushed):
    pushed()
    (id,) = send(project, 1)
    worker = Worker(project.config, project.client)
    worker._begin()
    lost = []

    def lossy(answer):
        if not lost and id in [one.id for one in answer.claimed]:
            catalog.change(project.client, "d", lambda record: Record(name="d", last=record.last))
            lost.append(id)
            raise StoreUnavailable("the answer was lost")

    on_claims(worker, lossy)
    give_back, worker._strays.give_back = worker._strays.give_back, lambda *_: None
    try:
        assert turning(worker, lambda: lost and "d" not in worker.functions)
        assert project.job(id)["status"] == "started"
        worker._strays.give_back = give_back
        assert turning(worker, lambda: project.job(id)["status"] == "queued")
    finally:
        worker._end()
