"""Runtimes: what is a handler's name, and what runs it."""

from __future__ import annotations

from typing import get_args, get_type_hints

import pytest

from broker import runtimes
from broker.config import load
from broker.config.programs import require_programs
from broker.errors import ConfigError
from broker.function import Function
from tests import java_bootstrap


def test_every_choice_of_runtime_is_a_file_and_no_other_is_there():
    assert set(get_args(get_type_hints(Function)["runtime"])) == runtimes.shipped()


@pytest.fixture
def root(tmp_path):
    (tmp_path / "handlers").mkdir()
    for name in ("handlers/hello.mjs", "handlers/hello.py", "index.js", "handlers/v1.cjs", "handlers/notes.txt"):
        (tmp_path / name).write_text("")
    (tmp_path / "Hello.java").write_text("")
    (tmp_path / "run.sh").write_text("#!/bin/sh\n")
    (tmp_path / "run.sh").chmod(0o755)
    return tmp_path


@pytest.mark.parametrize(
    ("runtime", "handler"),
    [
        ("nodejs", "handlers/hello.mjs:handler"),
        ("nodejs", "./handlers/hello.mjs:app.handler"),
        ("nodejs", "handlers/hello.handler"),
        ("nodejs", "index.handler"),
        ("nodejs", "index.app.handler"),
        ("nodejs", "handlers/v1.$handler"),
        ("java", "Hello.java:Hello::handle"),
        ("java", "handlers:com.example.App"),
        ("java", "com.example.App::handle"),
        ("provided", "./run.sh"),
        ("provided", "run.sh:function.handler"),
        ("provided", "cat -m awslambdaric app.handler"),
        ("exec", "./run.sh"),
        ("exec", "./run.sh --fast x"),
        ("exec", "cat"),
        ("exec", "cat; exit 3"),
        ("exec", "X=1 ./gone.sh"),
    ],
)
def test_a_handler_that_is_there_is_fine(root, runtime, handler):
    assert runtimes.find(runtime).problem(handler, root) == ""


@pytest.mark.parametrize(
    ("runtime", "handler", "problem"),
    [
        ("nodejs", "handlers/hello.py:handler", 'expected "handlers/thumbnail.mjs:handler" or "index.handler"'),
        ("nodejs", "handler", "expected "),
        (
            "nodejs",
            "handlers/hallo.mjs:handler",
            'there is no file handlers/hallo.mjs in ROOT; did you mean "handlers/h',
        ),
        ("nodejs", "indes.handler", 'there is no file indes in ROOT; did you mean "index.js"?'),
        ("java", "Hallo.java:Hello::handle", 'there is no file Hallo.java in ROOT; did you mean "Hello.java"?'),
        ("java", "Hello.java:", 'expected "Hello.java:Hello::handle", "app.jar:com.example.App::handle" or "com'),
        ("provided", "bootstrap", "there is no file ./bootstrap in ROOT"),
        ("provided", "rum.sh:app.handler", 'there is no file ./rum.sh in ROOT; did you mean "run.sh"?'),
        ("exec", "", "expected a program or a line for the shell"),
        ("exec", "./rum.sh", 'there is no file ./rum.sh in ROOT; did you mean "run.sh"?'),
        ("exec", "handlers/notes.txt", "handlers/notes.txt may not be executed; `chmod +x handlers/notes.txt`"),
    ],
)
def test_what_is_wrong_with_a_handler_is_said(root, runtime, handler, problem):
    assert runtimes.find(runtime).problem(handler, root).replace(str(root), "ROOT").startswith(problem)


@pytest.mark.parametrize(
    ("handler", "argv"),
    [
        ("cat", ["cat"]),
        ("./run.sh -v a=b", ["/bin/sh", "-c", "./run.sh -v a=b"]),
        ("./run.sh -v a", ["ROOT/run.sh", "-v", "a"]),
        ("/bin/cat", ["/bin/cat"]),
        ("cat | wc", ["/bin/sh", "-c", "cat | wc"]),
        ("echo 'a b'", ["/bin/sh", "-c", "echo 'a b'"]),
        ("A=1 env", ["/bin/sh", "-c", "A=1 env"]),
        ("exit 3", ["/bin/sh", "-c", "exit 3"]),
        (". ./run.sh", ["/bin/sh", "-c", ". ./run.sh"]),
    ],
)
def test_only_what_needs_a_shell_gets_one(root, handler, argv):
    assert [word.replace(str(root), "ROOT") for word in runtimes.find("exec").argv(handler, root, 0)] == argv


@pytest.mark.parametrize(
    ("handler", "argv", "inner"),
    [
        ("bootstrap", ["ROOT/bootstrap"], "bootstrap"),
        ("run.sh:function.handler", ["ROOT/run.sh"], "function.handler"),
        ("bin/x:a.b", ["ROOT/bin/x"], "a.b"),
        ("python3 -m ric app.handler", ["python3", "-m", "ric", "app.handler"], "python3 -m ric app.handler"),
    ],
)
def test_a_provided_program_finds_its_handler_in_a_variable(root, handler, argv, inner):
    runtime = runtimes.find("provided")
    assert [word.replace(str(root), "ROOT") for word in runtime.argv(handler, root, 0)] == argv
    assert runtime.inner(handler) == inner


def test_a_program_that_is_not_found_is_a_mistake_with_its_place_and_what_to_install(root, monkeypatch):
    monkeypatch.setenv("PATH", str(root))
    text = '[functions.a]\nruntime = "nodejs"\nhandler = "index.handler"\n'
    text += '[functions."b"]\nruntime = "exec"\nhandler = "frobnicate -x"\n'
    text += '[functions.j]\nruntime = "java"\nhandler = "com.example.App::handle"\n'
    text += '[functions.s]\nruntime = "java"\nhandler = "Hello.java:Hello::handle"\n'
    text += (
        '[functions.c]\nhandler = "handlers/hello.py:handler"\n[functions.d]\nruntime = "exec"\nhandler = "./run.sh"\n'
    )
    (root / "config.toml").write_text(text)
    config = load(root / "config.toml", {})
    with pytest.raises(ConfigError) as raised:
        require_programs(config)
    jdk = "install a JDK 17 or newer, such as `apt install default-jdk-headless`"
    assert [(one.place, one.problem, one.hint) for one in raised.value.mistakes] == [
        ("functions.a.runtime", "node is not found", "install Node.js 18 or newer, such as `apt install nodejs`"),
        ("functions.b.runtime", "frobnicate is not found", "install it, or write its path"),
        ("functions.j.runtime", "java is not found", jdk),
        ("functions.s.runtime", "javac is not found", jdk),
    ]


def test_a_program_that_a_layer_may_bring_is_not_missed(root):
    (root / "tools/bin").mkdir(parents=True)
    text = (
        '[layers.tools]\npath = "tools"\n[functions.a]\nruntime = "exec"\nhandler = "frobnicate"\nlayers = ["tools"]\n'
    )
    (root / "config.toml").write_text(text)
    require_programs(load(root / "config.toml", {}))


def test_a_runtime_that_is_not_known_is_one_mistake(root):
    (root / "config.toml").write_text('[functions.a]\nruntime = "node"\nhandler = "index.handler"\n')
    with pytest.raises(ConfigError) as raised:
        load(root / "config.toml", {})
    [mistake] = raised.value.mistakes
    assert (mistake.place, mistake.hint) == ("functions.a.runtime", 'did you mean "nodejs"?')


def test_each_runtime_has_its_least_memory(root):
    (root / "config.toml").write_text('[functions.a]\nruntime = "nodejs"\nhandler = "index.handler"\nmemory = "32MB"\n')
    with pytest.raises(ConfigError, match='expected at least 64MB, got "32MB"'):
        load(root / "config.toml", {})


def test_the_bootstrap_of_java_is_made_of_the_sources_beside_it():
    made = java_bootstrap.shipped()
    assert made["SOURCES"].decode() == java_bootstrap.sources(), "run `python -m tests.java_bootstrap`"
    if made["COMPILER"].decode() == java_bootstrap.compiler():  # others make other bytes
        assert made == java_bootstrap.compiled()
