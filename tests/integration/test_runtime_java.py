"""`runtime = "java"`: the forms of handlers, and each way in which one is not found."""

# ruff: noqa: F401, F811 -- pytest finds the imported fixtures by their names

from __future__ import annotations

import json
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

from broker.errors import HandlerMissing, InitFailed
from broker.runtime.messages import Done
from tests.integration.environment_driver import Driver, driver, nursery

pytestmark = pytest.mark.timeout(90)

TAKES = "(event), (event, context) or (InputStream, OutputStream, context)"
FORMS = Path(__file__).parents[1] / "data/runtimes/Forms.java"


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("java") / "classes"
    subprocess.run(["javac", "--release", "17", "-d", folder, FORMS], check=True)
    return folder


@pytest.fixture
def classes(driver: Driver, compiled: Path) -> None:
    shutil.copytree(compiled, driver.root / "classes")


@pytest.mark.parametrize(
    ("method", "event", "result"),
    [
        ("Forms::fixed", 41, 42),
        ("Forms::text", {"a": "ä"}, '{"a": "\\u00e4"}'),
        (
            "Forms::image",
            {"name": "x", "size": {"width": 1, "height": 2}, "more": 3},
            {"name": "x", "size": {"width": 1, "height": 2}, "others": [{"width": 1, "height": 2}]},
        ),
        ("Forms::bean", {"name": "ä"}, {"name": "ä"}),
        ("Forms::stream", [1, {"a": None}], [1, {"a": None}]),
        ("Forms::later", 1, "later"),
        ("Forms::temporary", 1, True),
        ("Forms$Request", {"n": 1}, 2),
    ],
)
def test_a_handler_takes_the_event_in_the_form_it_likes(
    driver: Driver, classes: None, method: str, event: Any, result: Any
) -> None:
    assert driver.result(driver.warm(f"classes:{method}", runtime="java", init_timeout=60), event) == result


def test_the_context_is_the_interface_that_the_handler_takes(driver: Driver, classes: None) -> None:
    environment = driver.warm("classes:Forms::context", runtime="java", timeout=60, init_timeout=60)
    environment.send("ab" * 16, 3, b"null", b'{"custom":{"a":"b"}}')
    environment.flush()
    driver.run(lambda: not environment.pending)
    done = driver.messages[environment][-1]
    assert isinstance(done, Done)
    *fields, left = json.loads(done.body)
    assert fields == ["ab" * 16, 3, 256, "arn:aws:lambda:local:000000000000:function:fn", "b", "null"]
    assert 0 < left <= 60_000
    assert driver.text(environment) == ["logged"]


def test_a_jar_and_a_library_beside_the_configuration_are_searched(driver: Driver, compiled: Path) -> None:
    for jar in ("app.jar", "lib/forms.jar"):
        (driver.root / jar).parent.mkdir(exist_ok=True)
        with zipfile.ZipFile(driver.root / jar, "w") as file:
            for path in compiled.iterdir():
                file.write(path, path.name)
    for handler in ("app.jar:Forms::fixed", "Forms::fixed"):
        assert driver.result(driver.warm(handler, runtime="java", init_timeout=60), 1) == 2


def test_a_source_file_is_compiled(driver: Driver) -> None:
    driver.write("Hello.java", 'class Hello { static String handle(Object event) { return "ä" + event; } }\n')
    assert driver.result(driver.warm("Hello.java:Hello::handle", runtime="java", init_timeout=60), 1) == "ä1"


def test_what_is_thrown_in_a_future_is_the_error(driver: Driver, classes: None) -> None:
    environment = driver.warm("classes:Forms::later", runtime="java", init_timeout=60)
    error = driver.error(environment, None)
    assert (error["errorType"], error["errorMessage"]) == ("IllegalArgumentException", "nothing")


@pytest.mark.parametrize(
    ("handler", "kind", "message"),
    [
        ("gone.jar:Forms::fixed", HandlerMissing, "there is no file gone.jar"),
        ("classes:Gone::fixed", HandlerMissing, "classes has no class 'Gone'"),
        ("Gone::fixed", HandlerMissing, "there is no class Gone"),
        ("classes:Forms$Request::gone", HandlerMissing, "Forms$Request has no 'gone'; it has handleRequest"),
        (
            "classes:Forms::three",
            InitFailed,
            f"a handler takes {TAKES}, but 'three' takes (Object, Object, Object)",
        ),
        ("classes:Forms$Unready::handle", InitFailed, "loading classes failed: IllegalStateException: no database"),
        ("Wrong.java:Wrong::handle", InitFailed, "error in Wrong.java, line 2: ';' expected"),
    ],
)
def test_each_way_to_fail_has_its_own_error(
    driver: Driver, classes: None, handler: str, kind: type[Exception], message: str
) -> None:
    driver.write("Wrong.java", "class Wrong {\n  int x = 1\n}\n")
    environment = driver.start(handler, runtime="java", init_timeout=60)
    died = driver.died(environment, within=60)
    assert (type(died.error), str(died.error), died.init) == (kind, message, True)
    assert driver.text(environment)[0].startswith("[ERROR] ")
