"""config.load: what a file means, and that everything wrong with it is said at once, with its place, in words."""

from __future__ import annotations

import os

import pytest

from broker.config import Settings, load
from broker.errors import ConfigError
from broker.function import Batch, Function, Retry
from broker.quantity import Duration, Size
from broker.trigger import Trigger

SOURCE = """
from __future__ import annotations

from pathlib import Path

import msgspec

from broker.quantity import Duration, Size
from broker.source import Source


class Login(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    user: str
    password: str | None = None


class Mail(Source, frozen=True, kw_only=True, forbid_unknown_fields=True):
    host: str
    port: int = 993
    every: Duration = Duration(60)
    folder: Path = Path("INBOX")
    only: tuple[str, ...] = ()
    limits: dict[str, Size] = {}
    login: Login | None = None
    fallbacks: list[Login] = []


class Picky(Source, frozen=True, kw_only=True, forbid_unknown_fields=True):
    low: int = 0
    high: int = 9

    def __post_init__(self):
        if self.low > self.high:
            raise ValueError("low is above high")
"""

QUEUE = """
from broker.source import Source

class Queue(Source, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass
"""


@pytest.fixture
def project(tmp_path):
    (tmp_path / "handlers").mkdir()
    (tmp_path / "handlers" / "thumbnail.py").write_text("def handler(event, context): ...")
    (tmp_path / "mail.py").write_text(SOURCE)
    (tmp_path / "sources").mkdir()
    (tmp_path / "sources" / "queue.py").write_text(QUEUE)
    return tmp_path


@pytest.fixture
def read(project):
    """Load a configuration of this text; `environ` is all that its variables can come from."""

    def read(text, **environ):
        (project / "config.toml").write_text(text)
        return load(project / "config.toml", environ)

    return read


@pytest.fixture
def mistakes(read):
    """Return the mistakes of a configuration of this text, as `place: problem (hint)`."""

    def mistakes(text, **environ):
        with pytest.raises(ConfigError) as caught:
            read(text, **environ)
        return [
            f"{mistake.place}: {mistake.problem}" + (f" ({mistake.hint})" if mistake.hint else "")
            for mistake in caught.value.mistakes
        ]

    return mistakes


THUMBNAIL = '[functions.thumbnail]\nhandler = "handlers/thumbnail.py:handler"\n'
MAIL = '[sources.mail]\nkind = "./mail.py:Mail"\nhost = "example.org"\n'


def test_a_whole_file_is_read(read, project):
    config = read("""
        [broker]
        redis = "redis://db:6379/0"
        workers = 4
        grace = "1m"

        [functions.thumbnail]
        handler = "handlers/thumbnail.py:handler"
        timeout = "1h30m"
        memory = "512MB"
        variables = { MODE = "fast" }
        retry = { attempts = 5, backoff = ["1s", 2, "1m"], jitter = false }
        batch = { size = 100, window = "250ms" }
        on_failure = "queue:jobs"

        [functions.dumps]
        handler = "json.dumps"

        [sources.jobs]
        kind = "queue"

        [sources.mail]
        kind = "./mail.py:Mail"
        host = "example.org"
        every = 5
        folder = "Work"
        only = ["a", "b"]
        limits = { body = "1KB" }
        login = { user = "ann" }
        fallbacks = [{ user = "bob", password = "x" }]

        [[triggers]]
        source = "mail"
        function = "thumbnail"
        pattern = { data = { size = [{ numeric = [">", 0] }] } }

        [[triggers]]
        source = "jobs"
        function = "dumps"
        """)
    assert config.path == project / "config.toml"
    assert config.root == project
    assert config.data == project / ".broker"
    assert config.settings == Settings(redis="redis://db:6379/0", workers=4, grace=Duration(60))
    assert config.functions["thumbnail"] == Function(
        name="thumbnail",
        handler="handlers/thumbnail.py:handler",
        timeout=Duration(5400),
        memory=Size(512 << 20),
        variables={"MODE": "fast"},
        retry=Retry(attempts=5, backoff=[Duration(1), Duration(2), Duration(60)], jitter=False),
        batch=Batch(size=100, window=Duration(0.25)),
        on_failure="queue:jobs",
    )
    assert isinstance(config.functions["thumbnail"].timeout, Duration)
    assert config.kinds == {"jobs": "queue", "mail": "./mail.py:Mail"}
    mail = config.sources["mail"]
    assert (mail.port, mail.every, mail.only, mail.limits) == (993, 5, ("a", "b"), {"body": 1024})
    assert str(mail.folder) == "Work"
    assert (mail.login.user, mail.fallbacks[0].password) == ("ann", "x")
    assert config.triggers == (
        Trigger(source="mail", function="thumbnail", pattern={"data": {"size": [{"numeric": [">", 0]}]}}),
        Trigger(source="jobs", function="dumps"),
    )


def test_an_empty_file_is_a_configuration(read):
    config = read("")
    assert (config.functions, config.sources, config.triggers) == ({}, {}, ())
    assert config.settings == Settings()


def test_the_representation_of_a_configuration_tells_no_secrets(read):
    assert "sesame" not in repr(read('[broker]\nredis = "redis://:sesame@db"'))


def test_the_file_is_config_toml_here_unless_the_environment_names_one(project, monkeypatch):
    (project / "config.toml").write_text("[broker]\nworkers = 2")
    (project / "other.toml").write_text("[broker]\nworkers = 3")
    monkeypatch.chdir(project)
    monkeypatch.delenv("BROKER_CONFIG", raising=False)
    assert load().settings.workers == 2
    assert load().path == project / "config.toml"
    monkeypatch.setenv("BROKER_CONFIG", "other.toml")
    assert load().settings.workers == 3
    assert load("config.toml").settings.workers == 2


def test_a_missing_file_says_how_to_make_one(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.toml: there is no such file \(make one with `broker init`"):
        load(tmp_path / "nowhere.toml")


def test_a_file_that_cannot_be_read_is_one_mistake(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b'[broker]\ndata = "d\xe4ta"')
    with pytest.raises(ConfigError, match="is not UTF-8 text: byte 19"):
        load(tmp_path / "latin.toml")
    (tmp_path / "deep.toml").write_text("a = " + "[" * 100_000)
    with pytest.raises(ConfigError, match="nested too deeply"):
        load(tmp_path / "deep.toml")


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("[broker]\nworkers = = 2", "line 2, column 11"),
        ("[broker]\nworkers = 1\nworkers = 2\n", "line 3, column"),
        ('[broker]\ndata = "x', "end of file"),
    ],
)
def test_a_syntax_error_has_its_line_and_column(mistakes, text, place):
    (mistake,) = mistakes(text)
    assert mistake.startswith(place)
    assert "not TOML: " in mistake


def test_a_byte_order_mark_is_no_mistake(tmp_path):
    (tmp_path / "config.toml").write_bytes(b"\xef\xbb\xbf[broker]\nworkers = 2")
    assert load(tmp_path / "config.toml").settings.workers == 2


def test_every_mistake_is_reported_at_once(mistakes):
    assert mistakes("""
        [broker]
        workers = 0
        grace = "soon"
        [brokr]
        [functions.thumbnail]
        timout = "3s"
        timeout = "3 parsecs"
        memory = "1MB"
        retry = { attempts = 0, backoff = ["1s", "x"], bas = "1s" }
        on_failure = "thumb"
        [functions."a.b"]
        handler = "json.dumps"
        [sources.mail]
        kind = "./mail.py:Mail"
        login = { usr = "ann" }
        [[triggers]]
        source = "mial"
        function = "thumbnails"
        pattern = { data = [{ prefx = "a" }] }
        [[triggers]]
        function = "thumbnail"
        """) == [
        'brokr: unknown table (did you mean "broker"?)',
        "broker.workers: expected a whole number (at least 1), got 0",
        'broker.grace: expected a duration such as "30s" or "1h30m", got "soon"',
        'functions."a.b": a name is letters, digits, - and _, a letter or digit first',
        'functions.thumbnail.timout: unknown key (did you mean "timeout"?)',
        "functions.thumbnail: handler is missing: expected a string",
        'functions.thumbnail.timeout: expected a duration such as "30s" or "1h30m", got "3 parsecs"',
        'functions.thumbnail.retry.bas: unknown key (did you mean "base"?)',
        "functions.thumbnail.retry.attempts: expected a whole number (at least 1), got 0",
        'functions.thumbnail.retry.backoff#2: expected a duration such as "30s" or "1h30m", got "x"',
        "sources.mail: host is missing: expected a string",
        'sources.mail.login.usr: unknown key (did you mean "user"?)',
        "sources.mail.login: user is missing: expected a string",
        "triggers#2: source is missing: expected a string",
        'functions.thumbnail.memory: expected at least 16MB, got "1MB"',
        'functions.thumbnail.on_failure: there is no function "thumb" (did you mean "thumbnail"?)',
        'triggers#1.source: there is no source "mial" (did you mean "mail"?)',
        'triggers#1.function: there is no function "thumbnails" (did you mean "thumbnail"?)',
        'triggers#1.pattern: data: unknown operator "prefx" (did you mean "prefix"?)',
    ]


def test_the_error_lists_its_mistakes_with_the_file(project, mistakes):
    mistakes("x = 1\ny = 2")
    with pytest.raises(ConfigError) as caught:
        load(project / "config.toml")
    known = "known: broker, functions, layers, sources, triggers"
    file = project / "config.toml"
    assert str(caught.value) == f"{file}: x: unknown table ({known})\n{file}: y: unknown table ({known})"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("broker = 5", "broker: expected a table, got 5"),
        ("functions = 5", "functions: expected tables called [functions.NAME], got 5"),
        ('[functions]\nhandler = "x"', 'functions.handler: expected a table, got "x"'),
        ("[triggers]", "triggers: expected [[triggers]] tables, got a table"),
        ("triggers = [5]", "triggers#1: expected a table, got 5"),
        ("[sources]\nmail = 5", "sources.mail: expected a table, got 5"),
        ("[sources.mail]", 'sources.mail.kind: expected the kind of source, such as "file"'),
        ("[sources.mail]\nkind = 5", 'sources.mail.kind: expected the kind of source, such as "file", got 5'),
        ('[sources.x]\nkind = "./nowhere.py:X"', "sources.x.kind: no such file"),
        ('[sources.x]\nkind = "./mail.py:X"', "sources.x.kind: ./mail.py:X: there is no Source called 'X'"),
        ('[sources.x]\nkind = "nothing"', "sources.x.kind: unknown kind 'nothing'"),
        (MAIL + "port = true", "sources.mail.port: expected a whole number, got true"),
        (MAIL + "only = [1]", "sources.mail.only#1: expected a string, got 1"),
        (MAIL + 'limits = { body = "big" }', 'sources.mail.limits.body: expected a size such as "256MB", got "big"'),
        (MAIL + "fallbacks = [{}]", "sources.mail.fallbacks#1: user is missing: expected a string"),
        (MAIL + "login = 2026-11-23", "sources.mail.login: expected a table, got 2026-11-23"),
        (MAIL + 'every = "-1s"', "sources.mail.every: expected a duration"),
        (MAIL + "every = nan", "sources.mail.every: expected a duration"),
        (MAIL + 'every = "99999w"', "sources.mail.every: expected a duration"),
        ('[sources.x]\nkind = "./mail.py:Picky"\nlow = 10', "sources.x: low is above high"),
        ('[broker]\nfsync = "alwys"', 'broker.fsync: expected "everysec" or "always", got "alwys" (did you mean'),
        (THUMBNAIL + "variables = { PORT = 80 }", "functions.thumbnail.variables.PORT: expected a string, got 80"),
        (
            THUMBNAIL + "batch = { size = 10001 }",
            "functions.thumbnail.batch.size: expected a whole number (at least 1, ",
        ),
        (THUMBNAIL + "concurrency = 0", "functions.thumbnail.concurrency: expected a whole number (at least 1), got 0"),
        (
            THUMBNAIL + "retry = { backoff = 5 }",
            'functions.thumbnail.retry.backoff: expected "exponential", "fixed" or',
        ),
        (THUMBNAIL + 'name = "x"', "functions.thumbnail.name: unknown key"),
        ('[functions._x]\nhandler = "json.dumps"', "functions._x: a name is letters"),
    ],
)
def test_a_mistake_is_said_in_words_and_with_its_place(mistakes, text, expected):
    assert [mistake for mistake in mistakes(text) if mistake.startswith(expected)]


def test_a_relative_path_and_a_link_keep_their_folder(project, monkeypatch):
    (project / "config.toml").write_text(THUMBNAIL)
    (project / "sub").mkdir()
    monkeypatch.chdir(project / "sub")
    assert load("../config.toml").root == project
    elsewhere = project / "sub" / "link.toml"
    os.symlink("../config.toml", elsewhere)  # noqa: PTH211 -- the test is about links, not about pathlib
    with pytest.raises(ConfigError, match=r"there is no file handlers/thumbnail\.py"):
        load(elsewhere)
