"""config.load: mistakes that show only when tables are seen together, or beside the files they speak of."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from broker import address
from broker.config import load
from broker.errors import ConfigError

SOURCES = """
from broker.source import Source

class Queue(Source, frozen=True, kw_only=True, forbid_unknown_fields=True):
    wrong: str = ""
    mine: list[str] = []

    def check(self, root):
        return [self.wrong] if self.wrong else []

    def claims(self, root):
        return self.mine
"""


@pytest.fixture
def project(tmp_path):
    (tmp_path / "handlers").mkdir()
    (tmp_path / "handlers" / "thumbnail.py").write_text("raise SystemExit('a check imports nothing')")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "module.py").write_text("raise SystemExit('a check imports nothing')")
    (tmp_path / "sources").mkdir()
    (tmp_path / "sources" / "queue.py").write_text(SOURCES)
    return tmp_path


@pytest.fixture
def mistakes(project):
    """Return the mistakes of a configuration of this text, as `place: problem (hint)`."""

    def mistakes(text):
        (project / "config.toml").write_text(text)
        try:
            load(project / "config.toml", {})
        except ConfigError as error:
            return [str(mistake).partition(": ")[2] for mistake in error.mistakes]
        return []

    return mistakes


F = '[functions.f]\nhandler = "handlers/thumbnail.py:handler"\n'
G = '[functions.g]\nhandler = "handlers/thumbnail.py:handler"\n'
Q = '[sources.q]\nkind = "queue"\n'
T = '[[triggers]]\nsource = "q"\nfunction = "f"\n'


@pytest.mark.parametrize(
    "handler",
    [
        "handlers/thumbnail.py:handler",
        "./handlers/thumbnail.py:Class.method",
        "package.module:handler",
        "package.module.handler",
        "package.module:Class.method",
        "json.dumps",
        "email.mime.text:MIMEText",
    ],
)
def test_a_handler_that_is_there_is_found_without_importing_it(mistakes, handler):
    assert mistakes(f'[functions.f]\nhandler = "{handler}"') == []
    assert "package" not in sys.modules


@pytest.mark.parametrize(
    ("handler", "problem"),
    [
        ("", 'expected "handlers/'),
        ("handler", 'expected "handlers/'),
        ("handlers/thumbnail.py", 'expected "handlers/'),
        ("handlers/thumbnail.py:", 'expected "handlers/'),
        ("handlers/thumbnail.py:a-b", 'expected "handlers/'),
        (":handler", 'expected "handlers/'),
        ("handlers/thumbnails.py:handler", "there is no file handlers/thumbnails.py in"),
        ("nowhere/thumbnail.py:handler", "there is no file nowhere/thumbnail.py in"),
        ("package.modul:handler", "there is no module package.modul, neither in"),
        ("package.module.deeper.handler", "there is no module package.module.deeper"),
        ("nowhere_at_all.handler", "there is no module nowhere_at_all"),
        ("a-b.handler", "there is no module a-b"),
    ],
)
def test_a_handler_that_is_not_there_is_a_mistake(mistakes, handler, problem):
    (mistake,) = mistakes(f'[functions.f]\nhandler = "{handler}"')
    assert mistake.startswith(f"functions.f.handler: {problem}")


def test_a_module_that_no_file_stands_behind_is_not_there(mistakes, monkeypatch):
    monkeypatch.setitem(sys.modules, "made_by_hand", ModuleType("made_by_hand"))
    (mistake,) = mistakes('[functions.f]\nhandler = "made_by_hand.handler"')
    assert "there is no module made_by_hand" in mistake


def test_a_handler_file_that_is_nearly_there_is_suggested(mistakes):
    (mistake,) = mistakes('[functions.f]\nhandler = "handlers/tumbnail.py:handler"')
    assert 'did you mean "handlers/thumbnail.py"?' in mistake


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('timeout = "0s"', 'timeout: expected at least 1ms, got "0s"'),
        ("init_timeout = 0.0001", 'init_timeout: expected at least 1ms, got "0.1ms"'),
        ("max_age = 0", 'max_age: expected at least 1ms, got "0s"'),
        ('memory = "15MB"', 'memory: expected at least 16MB, got "15MB"'),
        ('variables = { "A=B" = "x" }', 'variables."A=B": not possible as an environment variable'),
        ('variables = { A = "\\u0000" }', "variables.A: not possible as an environment variable"),
        ("retry = { backoff = [] }", "retry.backoff: expected at least one wait, got an empty list"),
        (
            "retry = { by = { OutOfMemry = 1 } }",
            'retry.by.OutOfMemry: no way for an attempt to fail (did you mean "OutOfMemory"?)',
        ),
        ('retry = { base = "10m" }', 'retry: base is longer than max: "10m", "5m"'),
        (
            'order_by = "customer"',
            'order_by: expected a path such as "subject" or "data.customer", got "customer" (perhaps "data.customer")',
        ),
        ("network = true", 'network: says nothing without isolation = "bwrap"'),
        ('writable = ["out"]', 'writable: says nothing without isolation = "bwrap"'),
        ('debounce_by = "subject"', "debounce_by: says nothing without debounce"),
        ('unique_by = "subject"', "unique_by: says nothing without unique_for"),
        ('debounce_max = "1m"', "debounce_max: says nothing without debounce"),
        ('debounce = "0s"', 'debounce: expected at least 1ms, got "0s"'),
        ("unique_for = 0", 'unique_for: expected at least 1ms, got "0s"'),
        (
            'debounce = "1m"\ndebounce_max = "30s"',
            'debounce_max: expected more than debounce (1m), got "30s": it would end before there was quiet',
        ),
        (
            'debounce = "1m"\nmax_age = "1m"',
            'max_age: expected more than debounce (1m), got "1m": nothing would ever run',
        ),
        ('order_by = "data..x"', 'order_by: expected a path such as "subject" or "data.customer", got "data..x"'),
        ('on_success = "g"', 'on_success: there is no function "g" (or queue:NAME of a queue source)'),
        ('on_success = "f"', "on_success: the function would run itself for ever"),
        ('on_failure = "queue:p"', 'on_failure: "queue:p" is no source of kind = "queue" (did you mean "queue:q"?)'),
        ('on_failure = "q"', 'on_failure: there is no function "q" (or queue:NAME of a queue source)'),
    ],
)
def test_a_limit_that_cannot_work_is_a_mistake(mistakes, line, expected):
    assert mistakes(F + line + "\n" + Q) == [f"functions.f.{expected}"]


def test_the_embedded_server_has_no_replicas_to_wait_for(mistakes):
    assert mistakes("[broker]\nreplicas = 1\n") == [
        "broker.replicas: the embedded server has none: name a Redis that has"
    ]
    assert mistakes('[broker]\nreplicas = 1\nredis = "redis://localhost"\n') == []


ROUND = "this would go round for ever: "


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (F + 'on_success = "g"\n' + G + 'on_success = "f"\n', [f"functions.f.on_success: {ROUND}f -> g -> f"]),
        (F + 'on_failure = "g"\n' + G + 'on_failure = "f"\n', [f"functions.f.on_failure: {ROUND}f -> g -> f"]),
        (
            F + 'on_success = "g"\n' + G + 'on_success = "g"\n',
            ["functions.g.on_success: the function would run itself for ever"],
        ),
        (F + 'on_success = "queue:q"\n' + Q + T, [f"functions.f.on_success: {ROUND}f -> f"]),
        (
            F + 'on_success = "g"\n' + G + 'on_success = "queue:q"\n' + Q + T,
            [f"functions.f.on_success: {ROUND}f -> g -> f"],
        ),
        # These end: by a failure, by a success, or as the pattern lets it.
        (F + 'on_success = "g"\n' + G + 'on_failure = "f"\n', []),
        (F + 'on_success = "queue:q"\n' + Q + T + 'pattern = { type = ["queue.message"] }\n', []),
        (F + 'on_success = "g"\non_failure = "g"\n' + G, []),
    ],
)
def test_destinations_that_lead_back_for_ever_are_a_mistake(mistakes, text, expected):
    assert mistakes(text) == expected


@pytest.mark.parametrize(
    "line",
    [
        'order_by = "data.a"\ndebounce = "1s"\ndebounce_by = "subject"\nunique_for = "1h"\nunique_by = "data.b"',
        'on_success = "g"',
        'on_failure = "queue:q"',
        'retry = { backoff = "fixed", base = "10m" }',
    ],
)
def test_what_can_work_is_none(mistakes, line):
    assert mistakes(F + line + "\n" + G + Q) == []


def test_a_destination_may_be_a_queue_that_is_wrong_otherwise(mistakes):
    assert mistakes(F + 'on_failure = "queue:q"\n' + Q + 'wrong = "no"') == ["sources.q: no"]


@pytest.mark.parametrize(
    "url",
    [
        "redis://h",
        "redis://:p%2Fw@h:1/15?socket_timeout=3",
        "redis://u:p@[::1]:6379/",
        "rediss://h:1/0",
        "unix:///tmp/s",
        "unix://u:p@/tmp/s?db=2",
        "sentinel://a,b/name",
        "sentinel://:p@a,10.0.0.2:26379/name/3?sentinel_password=x",
    ],
)
def test_a_redis_url_has_a_scheme_that_is_known(mistakes, url):
    assert mistakes(f'[broker]\nredis = "{url}"') == []


@pytest.mark.parametrize(
    ("url", "got"), [("http://:sesame@h", "http://"), ("localhost:6379", "localhost://"), ("db", "something else")]
)
def test_any_other_redis_url_is_a_mistake(mistakes, url, got):
    known = "redis://, rediss://, unix://, sentinel://"
    assert mistakes(f'[broker]\nredis = "{url}"') == [f"broker.redis: expected a URL with {known}, got {got}"]


@pytest.mark.parametrize(
    "url",
    [
        "redis://:ses/ame@h",
        "redis://h:x",
        "redis://h:99999",
        "redis://h/one",
        "redis://[h",
        "rediss://h/0/1",
        "unix://relative",
        "unix://",
        "sentinel://h",
        "sentinel://h/",
        "sentinel://a,,b/name",
        "sentinel://a:x/name",
        "sentinel://a/name/one",
    ],
)
def test_a_redis_url_that_is_written_wrongly_is_a_mistake_that_shows_nothing_of_it(mistakes, url):
    form = address.FORMS[url.partition(":")[0]]
    hint = "special characters of a password are percent-encoded"
    assert mistakes(f'[broker]\nredis = "{url}"') == [f"broker.redis: expected {form} ({hint})"]


def test_what_a_source_finds_wrong_is_a_mistake(mistakes):
    assert mistakes(Q + 'wrong = "this will not do"') == ["sources.q: this will not do"]


def test_two_sources_cannot_claim_the_same(mistakes):
    text = '[sources.{0}]\nkind = "queue"\nmine = ["{1}", "{1}"]\n'
    assert mistakes(text.format("a", "port 1") + text.format("b", "port 2")) == []
    assert mistakes(text.format("a", "port 1") + text.format("b", "port 1")) == [
        "sources.b: port 1 belongs to sources.a already",
        "sources.b: port 1 belongs to sources.a already",
    ]


def test_a_trigger_names_what_there_is(mistakes):
    assert mistakes(T) == [
        'triggers#1.source: there is no source "q" (known: none)',
        'triggers#1.function: there is no function "f" (known: none)',
    ]
    assert mistakes(F + Q + T) == []


def test_a_trigger_written_twice_is_a_mistake(mistakes):
    other = T + 'pattern = { a = ["x"] }\n'
    assert mistakes(F + Q + T + other) == []
    assert mistakes(F + Q + T + other + other) == ["triggers#3: says the same as triggers#2"]


def test_sources_and_functions_without_triggers_are_fine(mistakes):
    assert mistakes(F + Q) == []


def test_a_pattern_is_compiled(mistakes):
    (mistake,) = mistakes(F + Q + T + 'pattern = { data = { size = [{ numeric = [">"] }] } }')
    assert mistake.startswith("triggers#1.pattern: data.size.numeric: expected =, >, >=")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('queues = ["mail", "f"]', ['broker.rq.queues: "f" is the queue of the function "f"']),
        ('queues = ["f.high"]', ['broker.rq.queues: "f.high" is the queue of the function "f"']),
        ('queues = ["mail", "mail"]', ['broker.rq.queues: "mail" is named twice']),
        ('queues = ["a,b"]', ['broker.rq.queues: expected the name of a queue, without a comma, got "a,b"']),
        ('queues = [""]', ['broker.rq.queues: expected the name of a queue, without a comma, got ""']),
        (
            'serializer = "other"',
            ['broker.rq.serializer: expected "pickle", "json" or the import path of a serializer, got "other"'],
        ),
        ('queues = ["mail", "mail.high"]\nserializer = "rq.serializers.JSONSerializer"', []),
    ],
)
def test_queues_of_plain_jobs_are_checked(mistakes, text, expected):
    assert mistakes(f"[broker.rq]\n{text}\n{F}") == expected


@pytest.mark.parametrize(
    "text",
    [
        "class Mine: pass",
        "from json import *",
        "import json as Mine",
        "def __getattr__(name): return None",
        "if 1 > 0:\n    Mine = object()",
        "no Python at all",
    ],
)
def test_a_serializer_that_may_be_there_is_taken(mistakes, project, text):
    (project / "package/module.py").write_text(text)
    assert mistakes('[broker.rq]\nserializer = "package.module.Mine"') == []


def test_a_serializer_of_plain_jobs_must_be_there(mistakes, project):
    (project / "package/module.py").write_text("import json\nclass Other:\n    print(json)")
    for module in ("package.module", "rq.serializers"):
        problem = f"broker.rq.serializer: there is no Mine in {module}"
        assert mistakes(f'[broker.rq]\nserializer = "{module}.Mine"') == [problem]
    problem = f"there is no module package.other, neither in {project} nor installed"
    assert mistakes('[broker.rq]\nserializer = "package.other.Mine"') == [f"broker.rq.serializer: {problem}"]


def test_an_event_may_be_as_long_as_its_attributes(mistakes):
    assert mistakes('[broker]\nmax_event = "1KB"') == []
    assert mistakes("[broker]\nmax_event = 0") == ['broker.max_event: expected at least 1KB, got "0B"']


@pytest.mark.parametrize(
    ("text", "place"),
    [(F + 'budget = { per = "day" }\n', "functions.f.budget"), ("[broker.budget]\n", "broker.budget")],
)
def test_a_budget_of_nothing_is_a_mistake(mistakes, text, place):
    assert mistakes(text) == [f"{place}: expected requests, gb_seconds or both, got neither"]


def test_a_budget_has_an_end(mistakes):
    text = F + "budget = { gb_seconds = inf }\n"
    assert mistakes(text) == ["functions.f.budget.gb_seconds: expected a number that is reached some time, got inf"]


def test_a_table_that_is_not_empty_but_wrong_is_not_told_to_be_empty(mistakes):
    text = F + "budget = { requests = 0 }\n[layers.l]\npackages = 5\n"
    assert mistakes(text) == [
        "functions.f.budget.requests: expected a whole number (at least 1), got 0",
        "layers.l.packages: expected a list, got 5",
    ]
