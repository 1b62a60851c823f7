"""The command line as people and programs use it: `python -m broker ...` in a folder of its own."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import runpy
import shlex
import signal
import struct
import subprocess
import sys
import termios
import tomllib
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from broker.cli._output import clean
from tests.conftest import until

CONFIG = """
[functions.hello]
handler = "hello.py:handler"
timeout = "5s"

[sources.quiet]
kind = "./quiet.py:Quiet"

[[triggers]]
source = "quiet"
function = "hello"
pattern = { type = ["a"] }
"""

SOURCE = """
from datetime import timedelta
from broker.source import Source

class Quiet(Source):
    def run(self, context):
        context.stopping.wait()

    def plan(self, root):
        return ["says nothing", "to nobody"]

    def upcoming(self, now, n):
        return [now + timedelta(minutes=number) for number in range(n)]
"""


class Folder:
    """A project, and commands run in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "config.toml").write_text(CONFIG)
        (root / "hello.py").write_text("def handler(event, context): return 1\n")
        (root / "quiet.py").write_text(SOURCE)

    def run(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("BROKER_")} | environ
        return subprocess.run(
            [sys.executable, "-m", "broker", *arguments],
            cwd=self.root,
            env=environment,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    def processes(self) -> list[psutil.Process]:
        """Every living process that was started for this folder."""
        found = []
        for process in psutil.process_iter():
            try:
                if str(self.root) in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.NoSuchProcess:
                continue
        return found


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


def test_broker_alone_prints_the_help_with_every_command(folder):
    done = folder.run()
    assert done.returncode == 0
    assert all(f"\n  {name} " in done.stdout for name in ("up", "host", "worker", "init", "check"))
    assert folder.run("--help").stdout == done.stdout
    assert "..." not in done.stdout.partition("Commands:")[2]  # no description is cut off


def test_the_version_is_said(folder):
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    assert folder.run("--version").stdout == f"broker {project['version']}\n"


@pytest.mark.parametrize("arguments", [["chekc"], ["check", "--nope"], ["init", "a", "b"], ["up", "now"]])
def test_wrong_usage_is_exit_code_2_and_shows_the_right_one(folder, arguments):
    done = folder.run(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("Usage: broker ")
    assert "Traceback" not in done.stderr


def test_check_shows_functions_triggers_sources_and_the_next_five_firings(folder):
    done = folder.run("check")
    assert done.returncode == 0, done.stderr
    assert "hello     hello.py:handler" in done.stdout
    assert "says nothing\n" in done.stdout
    assert "to nobody\n" in done.stdout
    assert '{"type": ["a"]}' in done.stdout
    assert done.stdout.count("\nquiet     20") == 5


def test_check_as_json_is_one_document_with_the_same_facts(folder):
    found = json.loads(folder.run("check", "--json").stdout)
    assert [function["name"] for function in found["functions"]] == ["hello"]
    assert found["triggers"] == [{"source": "quiet", "function": "hello", "pattern": {"type": ["a"]}}]
    assert found["sources"] == [
        {"name": "quiet", "kind": "./quiet.py:Quiet", "plan": ["says nothing", "to nobody"]},
    ]
    assert len(found["firings"]) == 5
    assert [one for one in found["complaints"] if "run as root" not in one] == []


def test_check_shows_the_next_firings_of_a_hundred_schedules_and_says_how_many_more_there_are(folder):
    tables = "".join(f'[sources.s{number}]\nkind = "schedule"\ncron = "0 3 * * *"\n' for number in range(120))
    (folder.root / "config.toml").write_text(tables)
    shown = folder.run("check").stdout
    assert shown.count("T03:00:00+00:00") == 5 * 100
    assert "The next firings of 20 more: broker check --json" in shown
    assert len(json.loads(folder.run("check", "--json").stdout)["firings"]) == 5 * 120


def test_check_says_all_mistakes_at_once_with_exit_code_2(folder):
    (folder.root / "config.toml").write_text(CONFIG.replace('"5s"', '"soon"').replace('"hello"', '"helo"'))
    done = folder.run("check")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("Error: config.toml has 2 mistakes\n")
    assert "functions.hello.timeout: " in done.stderr
    assert "helo" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Traceback" in folder.run("check", BROKER_DEBUG="1").stderr


def test_check_complains_about_a_redis_that_keeps_nothing(folder, redis_server):
    (folder.root / "config.toml").write_text(f'[broker]\nredis = "{redis_server.url}"\n' + CONFIG)
    done = folder.run("check")
    assert done.returncode == 0
    assert "keeps nothing on disk" in done.stderr
    assert "keeps nothing on disk" in json.loads(folder.run("check", "--json").stdout)["complaints"][0]


def test_check_of_a_redis_that_is_away_says_so_without_the_password(folder):
    (folder.root / "config.toml").write_text('[broker]\nredis = "redis://:hunter2@127.0.0.1:1/0"\n' + CONFIG)
    done = folder.run("check")
    assert done.returncode == 0
    assert "redis://127.0.0.1:1/0 does not answer" in done.stderr
    assert "hunter2" not in done.stderr + done.stdout


def test_check_prints_the_schema_of_the_configuration(folder):
    schema = json.loads(folder.run("check", "--schema").stdout)
    assert {"broker", "functions", "sources", "triggers"} <= set(schema["properties"])


@pytest.mark.parametrize("arguments", [["-c", "PATH", "check"], ["check", "-c", "PATH"], ["check", "--config", "PATH"]])
def test_the_configuration_may_be_named_before_or_after_the_command(folder, tmp_path_factory, arguments):
    elsewhere = Folder(tmp_path_factory.mktemp("elsewhere"))
    path = str(elsewhere.root / "config.toml")
    done = folder.run(*[path if word == "PATH" else word for word in arguments])
    assert f"{path} is fine" in done.stdout


def test_the_configuration_may_be_named_in_the_environment(folder, tmp_path_factory):
    elsewhere = Folder(tmp_path_factory.mktemp("elsewhere"))
    path = str(elsewhere.root / "config.toml")
    assert f"{path} is fine" in folder.run("check", BROKER_CONFIG=path).stdout


def test_init_makes_a_project_that_check_finds_fine_and_overwrites_nothing(folder):
    assert folder.run("init", "new/project").returncode == 0
    project = folder.root / "new/project"
    assert f"{project / 'config.toml'} is fine" in folder.run("check", "-c", "new/project/config.toml").stdout
    assert (project / ".broker/config.schema.json").is_file()
    assert ".broker/" in (project / ".gitignore").read_text()
    (project / "config.toml").write_text("# mine")
    again = folder.run("init", "new/project")
    assert again.returncode == 1
    assert "there already" in again.stderr
    assert (project / "config.toml").read_text() == "# mine"


def test_init_writes_what_the_readme_shows_and_its_handler_takes_any_event(folder):
    folder.run("init", "new")
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    shown = readme.partition("## Your own function")[2].partition("\n## ")[0]
    handler = folder.root / "new/handlers/hello.py"
    for language, path in (("toml", folder.root / "new/config.toml"), ("python", handler)):
        assert shown.partition(f"```{language}\n")[2].partition("```")[0] in path.read_text()
    assert runpy.run_path(str(handler))["handler"]({"type": "invoke"}, None) == {"seen": None}


def test_a_reader_that_stops_reading_is_no_fault(folder):
    ear, mouth = os.pipe()
    os.close(ear)
    done = subprocess.run(
        [sys.executable, "-m", "broker", "check"], cwd=folder.root, stdout=mouth, stderr=subprocess.PIPE, check=False
    )
    os.close(mouth)
    assert done.stderr == b""


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_command_runs_without_standard_streams(folder, closed):
    command = f"{shlex.quote(sys.executable)} -m broker check {closed}"
    done = subprocess.run(["sh", "-c", command], cwd=folder.root, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "fault" not in done.stderr


def test_ctrl_c_while_a_command_is_imported_leaves_no_traceback(folder):
    (folder.root / "click.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGINT)")
    done = folder.run("check")  # `python -m` finds it there, before the real one
    assert (done.returncode, done.stderr) == (130, "")


def test_a_command_imports_only_what_it_needs(folder):
    code = (
        "import sys; from broker.cli import main; main(sys.argv[1:]); "
        "print(*({'redis', 'rich', 'rq', 'starlette', 'psutil'} & set(sys.modules)), file=sys.stderr)"
    )
    for arguments in (["check"], ["--help"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd=folder.root, capture_output=True, text=True, check=True
        )
        assert done.stderr.splitlines()[-1] == "", arguments  # before it stand warnings, when root runs this


def test_what_could_play_with_the_terminal_is_spelled_out():
    assert clean("a\x1b[31mred\x07\x9b\r") == "a\\x1b[31mred\\x07\\x9b\\x0d"
    assert clean("two\nlines\tand ümlauts") == "two\nlines\tand ümlauts"
    assert clean(None) == ""


def test_up_shows_what_runs_and_ctrl_c_leaves_nothing(folder):
    path = folder.root / "config.toml"
    with subprocess.Popen(
        [sys.executable, "-m", "broker", "up", "--config", path],
        cwd="/",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        screen = ""
        while "follows what functions print" not in screen:
            line = process.stdout.readline()
            assert line, screen
            screen += line
        assert f"broker runs {path} with 1 worker\nRedis: embedded Valkey " in screen
        assert str(folder.root / ".broker/redis.sock") in screen
        assert "hello     hello.py:handler       5s   256MB" in screen
        assert "quiet   ./quiet.py:Quiet  says nothing\n" in screen
        assert 'quiet      {"type": ["a"]}  hello\n' in screen
        assert len(folder.processes()) >= 4
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    assert folder.processes() == []


def test_up_twice_is_refused_and_the_first_goes_on(folder):
    command = [sys.executable, "-m", "broker", "up", "--config", folder.root / "config.toml"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as first:
        assert first.stdout.readline().startswith("broker runs")
        second = folder.run("up")
        assert second.returncode == 1
        assert f"Error: another broker already runs in {folder.root / '.broker'} (process {first.pid})" in second.stderr
        first.send_signal(signal.SIGINT)
        assert first.wait(30) == 0
    assert folder.processes() == []


def test_up_on_a_terminal_draws_tables_and_stops_at_ctrl_c_typed_there(folder):
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder.root)
        os.execv(sys.executable, [sys.executable, "-m", "broker", "up"])
    seen = b""
    while b"follows what functions print" not in seen:
        seen += os.read(terminal, 4096)
    assert "────".encode() in seen
    assert "hello.py:handler" in seen.decode()
    os.write(terminal, b"\x03")
    try:
        while block := os.read(terminal, 4096):
            seen += block
    except OSError:  # how Linux says that the last process has closed the terminal
        pass
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert b"stopping:" in seen
    until(lambda: folder.processes() == [])


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1", "TERM": "xterm"}, {"TERM": "dumb"}])
def test_a_narrow_terminal_without_colours_gets_each_row_by_itself_and_no_escapes(folder, variables):
    terminal, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 30, 0, 0))
    done = subprocess.run(
        [sys.executable, "-m", "broker", "check"],
        cwd=folder.root,
        env={**{name: value for name, value in os.environ.items() if name != "NO_COLOR"}, "COLUMNS": "30", **variables},
        stdout=theirs,
        stderr=theirs,
        check=True,
    )
    assert done.returncode == 0
    os.close(theirs)
    seen = b""
    with suppress(OSError):  # how Linux says that the last process has closed the terminal
        while block := os.read(terminal, 4096):
            seen += block
    os.close(terminal)
    assert b"\x1b" not in seen
    lines = seen.decode().splitlines()
    assert "function  hello" in lines
    assert "handler   hello.py:handler" in lines
