"""What bubblewrap is told, and as which user functions run."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from broker import config as configuration
from broker.errors import ConfigError
from broker.runtime import account
from broker.runtime.account import Account, owner
from broker.runtime.inside import bubble
from broker.runtime.isolation import Isolation, complaints

ROOT = Path(__file__).parents[2]


def spec(root, *, network=False, writable=(), hidden=(), **variables):
    rules = {"network": network, "tmp": 1000, "writable": list(writable), "hidden": [str(path) for path in hidden]}
    return {"root": str(root), "argv": [], "layers": [], "variables": variables, "bounds": {"bubble": rules}}


def triples(options, kind):
    return [options[n + 1 : n + 3] for n, option in enumerate(options) if option == kind]


def test_all_can_be_read_and_nothing_written(tmp_path):
    options = bubble.arguments(spec(tmp_path))
    assert triples(options, "--ro-bind")[0] == ["/", "/"]
    assert "--bind-try" not in options
    assert "--unshare-all" in options
    assert "--share-net" not in options
    assert options[-2:] == ["--chdir", str(tmp_path)]


def test_what_the_function_needs_can_be_seen_where_all_else_is_covered(tmp_path, monkeypatch):
    monkeypatch.setattr(bubble, "_EMPTY", ("/tmp", "/run", str(tmp_path)))
    layers = f"{tmp_path}/layers/a:{tmp_path}/layers/b:relative:/usr/lib"
    options = bubble.arguments(spec(tmp_path / "project", PYTHONPATH=layers))
    seen = [path for path, _ in triples(options, "--ro-bind-try")]
    for path in ("project", "layers/a", "layers/b"):
        assert f"{tmp_path}/{path}" in seen
    assert "relative" not in seen
    assert "/usr/lib" not in seen
    assert options.index("--tmpfs") < options.index(f"{tmp_path}/project")


def test_secrets_are_covered_also_in_a_folder_that_may_be_written_and_layers_below_are_not(tmp_path):
    (tmp_path / ".env").write_text("SECRET=1")
    (tmp_path / ".broker/layers/x").mkdir(parents=True)
    hidden = [tmp_path / ".env", tmp_path / ".broker", tmp_path / "not there"]
    options = bubble.arguments(
        spec(tmp_path, writable=[str(tmp_path)], hidden=hidden, PYTHONPATH=f"{tmp_path}/.broker/layers/x")
    )
    written = options.index("--bind-try")
    data = options.index(f"{tmp_path}/.broker")
    assert options[data - 1] == "--tmpfs"
    assert ["/dev/null", f"{tmp_path}/.env"] in triples(options, "--ro-bind")
    assert written < data < options.index(f"{tmp_path}/.broker/layers/x", data)
    assert not any("not there" in option for option in options)


def test_a_program_is_seen_and_what_is_hidden_stays_so_when_its_line_names_it(tmp_path):
    program, data = f"{tmp_path}/tools/convert", tmp_path / ".broker"
    data.mkdir()
    wanted = {**spec(tmp_path / "project", hidden=[data]), "argv": [program, f"{data}/redis.sock", "/run/docker.sock"]}
    seen = [path for path, _ in triples(bubble.arguments(wanted), "--ro-bind-try")]
    assert f"{data}/redis.sock" not in seen
    assert "/run/docker.sock" not in seen
    assert (program in seen) == program.startswith(bubble._EMPTY)


def test_the_network_is_there_when_it_is_allowed(tmp_path):
    options = bubble.arguments(spec(tmp_path, network=True))
    assert options.index("--unshare-all") < options.index("--share-net")


@pytest.fixture
def project(tmp_path):
    def load(text):
        (tmp_path / "f.py").write_text("def handler(event, context): pass\n")
        (tmp_path / "config.toml").write_text(text)
        return configuration.load(tmp_path / "config.toml")

    return load


F = '[functions.f]\nhandler = "f.py:handler"\n'
ME = pwd.getpwuid(os.geteuid()).pw_name


def test_a_user_that_is_not_there_is_a_mistake_where_functions_run(project):
    config = project(F + 'user = "nobdy"\n')
    with pytest.raises(ConfigError, match=r'functions.f.user: there is no user "nobdy".*did you mean "nobody"'):
        Isolation.of(config)
    assert any("nobdy" in complaint for complaint in complaints(config))


def test_only_root_may_run_functions_as_another(project, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(ConfigError, match=r'broker.user: only root can run functions as "nobody"'):
        Isolation.of(project('[broker]\nuser = "nobody"\n' + F))


def test_a_function_may_have_a_user_of_its_own(project, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    rules = Isolation.of(project('[broker]\nuser = "nobody"\n' + F + F.replace("f]", "g]") + 'user = "daemon"\n'))
    names = {name: each and each.name for name, each in rules.accounts.items()}
    assert names == {"f": "nobody", "g": "daemon"}


def test_other_users_may_pass_through_the_data_folder_to_layers_and_not_look_into_it(project, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    config = project('[broker]\nuser = "nobody"\n' + F)
    Isolation.of(config)  # there is none yet
    config.data.mkdir(mode=0o700)
    Isolation.of(config)
    assert config.data.stat().st_mode & 0o777 == 0o711


def test_who_is_named_and_already_is_that_user_changes_nothing(project):
    assert Isolation.of(project(f'[broker]\nuser = "{ME}"\n' + F)).accounts == {"f": None}


def test_root_gives_functions_to_the_owner_of_the_folder_and_others_change_nothing(project, monkeypatch):
    config = project(F)
    someone = Account(name="someone", uid=4321, gid=4321, groups=(4321,), home="/home/someone")
    monkeypatch.setattr(account, "owner", lambda folder: someone)
    monkeypatch.setattr(account, "_unreadable", lambda who: None)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert Isolation.of(config).accounts == {"f": someone}
    assert list(complaints(config)) == []
    monkeypatch.setattr(account, "_unreadable", lambda who: Path("/root/python"))
    assert Isolation.of(config).accounts == {"f": None}
    assert list(complaints(config)) == [
        "functions run as root: someone, whose folder this is, may not read /root/python"
    ]
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    assert Isolation.of(config).accounts == {"f": None}
    assert list(complaints(config)) == []


def test_the_owner_of_a_folder_need_not_have_a_name(tmp_path, monkeypatch):
    def unknown(uid):
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    found = owner(tmp_path)
    assert (found.uid, found.name, found.home) == (os.geteuid(), str(os.geteuid()), str(tmp_path))


@pytest.mark.parametrize(
    ("folder", "file", "expected"),
    [(0o755, 0o644, True), (0o700, 0o644, False), (0o711, 0o600, False), (0o711, 0o604, True), (0o755, 0o640, False)],
)
def test_whether_another_may_read_a_file_is_known_from_the_rights(tmp_path, monkeypatch, folder, file, expected):
    place = tmp_path / "folder"
    place.mkdir()
    (place / "file").write_text("")
    (place / "file").chmod(file)
    place.chmod(folder)
    other = Account(name="x", uid=54321, gid=54321, groups=(54321,), home="/")
    above = Path.stat

    def stat(path, **options):  # what lies above this test's folder is not its concern
        state = above(path, **options)
        return state if path in (place, place / "file") else os.stat_result((0o40755, *state[1:]))

    monkeypatch.setattr(Path, "stat", stat)
    assert other.may_read(place / "file") is expected


def test_that_bubblewrap_is_missing_or_does_not_work_is_told(project, monkeypatch):
    config = project(F + 'isolation = "bwrap"\n')
    monkeypatch.setattr("shutil.which", lambda program: None)
    assert [each for each in complaints(config) if "not installed" in each]
    monkeypatch.setattr("shutil.which", lambda program: "/bin/false")
    monkeypatch.setattr("broker.runtime.isolation.PROGRAM", "false")
    assert [each for each in complaints(config) if "does not work here" in each]
