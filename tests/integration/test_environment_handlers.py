"""How a handler's name finds the handler, and each way in which it does not."""

# ruff: noqa: F401, F811 -- pytest finds the imported fixtures by their names

from __future__ import annotations

import json

import pytest

from broker.errors import HandlerMissing, InitFailed
from tests.integration.environment_driver import Driver, driver, nursery

pytestmark = pytest.mark.timeout(30)

OK = "def handler(event, context): return __name__\n"


@pytest.mark.parametrize(
    ("file", "handler", "name"),
    [
        ("x.py", "x.py:handler", "x"),
        ("x.py", "x:handler", "x"),
        ("x.py", "x.handler", "x"),
        ("jobs/x.py", "jobs/x.py:handler", "jobs.x"),
        ("jobs/x.py", "./jobs/../jobs/x.py:handler", "jobs.x"),
        ("jobs/deep/x.py", "jobs.deep.x:handler", "jobs.deep.x"),
        ("jobs/deep/x.py", "jobs.deep.x.handler", "jobs.deep.x"),
        ("handlers/x.py", "handlers/x.py:handler", "handlers.x"),  # an installed package has that name, too
        ("handlers/x.py", "handlers.x:handler", "handlers.x"),
        ("my-jobs/do-it.py", "my-jobs/do-it.py:handler", "my-jobs.do-it"),
        ("v1.2/x.y.py", "v1.2/x.y.py:handler", "handler_x.y"),
        ("json.py", "json.py:handler", "handler_json"),  # would hide the standard library's
        ("email/x.py", "email/x.py:handler", "handler_x"),
    ],
)
def test_a_handler_is_found(driver: Driver, file: str, handler: str, name: str) -> None:
    driver.write(file, OK)
    assert driver.result(driver.warm(handler)) == name


def test_a_handler_outside_the_project_is_found_by_its_path(driver: Driver) -> None:
    outside = driver.root.parent / f"{driver.root.name}-outside.py"
    outside.write_text(OK)
    environment = driver.warm(f"{outside}:handler")
    assert driver.result(environment).startswith("handler_")
    outside.write_text(OK + "# changed")
    driver.run(environment.imported.stale)


def test_a_handler_imports_its_neighbours(driver: Driver) -> None:
    driver.write("jobs/__init__.py", "NAME = 'package'\n")
    driver.write("jobs/near.py", "VALUE = 1\n")
    driver.write("other.py", "VALUE = 2\n")
    code = "import other\nfrom . import NAME, near\nfrom jobs.near import VALUE\n"
    driver.write("jobs/x.py", code + "def handler(event, context): return [NAME, near.VALUE, VALUE, other.VALUE]\n")
    for form in ("jobs/x.py:handler", "jobs.x:handler"):
        assert driver.result(driver.warm(form)) == ["package", 1, 1, 2]


@pytest.mark.parametrize(
    "code",
    [
        "def handler(event, context=None): return 1\n",
        "def handler(*args): return len(args) - 1\n",
        "def handler(event, context, *, more=1): return more\n",
        "def handler(event, context, more=1): return more\n",
        "class A:\n    def run(self, event, context): return 1\nhandler = A().run\n",
        "class A:\n    def __call__(self, event, context): return 1\nhandler = A()\n",
        "import functools\nhandler = functools.partial(lambda x, event, context: x, 1)\n",
        "async def handler(event, context): return 1\n",
        "async def go(): return 1\ndef handler(event, context): return go()\n",
        "import sys\nassert sys.argv == ['function.py:handler']\ndef handler(event, context): return 1\n",
    ],
)
def test_whatever_takes_event_and_context_is_a_handler(driver: Driver, code: str) -> None:
    assert driver.result(driver.warm(code)) == 1


def test_a_handler_may_be_an_attribute_of_an_object(driver: Driver) -> None:
    driver.write("x.py", "class App:\n    @staticmethod\n    def main(event, context): return 1\n")
    assert driver.result(driver.warm("x.py:App.main")) == 1


MISSING = [
    ("nowhere.py:handler", "there is no file nowhere.py"),
    ("jobs/nowhere.py:handler", "there is no file jobs/nowhere.py"),
    ("nowhere:handler", "there is no module nowhere"),
    ("nowhere.x.handler", "there is no module nowhere"),
    ("fine.sub:handler", "there is no module fine.sub"),
    ("fine.py:handle", "fine.py has no 'handle'; it defines handler, other"),
    ("empty.py:handler", "empty.py has no 'handler'"),
    ("handler", "expected file.py:name or package.module:name, got 'handler'"),
    ("fine.py:", "expected file.py:name or package.module:name, got 'fine.py:'"),
]
FAILING = [
    ("def handler(:\n", "SyntaxError in function.py, line 1: invalid syntax"),
    ("def handler(e, c):\npass\n", "IndentationError in function.py, line 2: expected an indented block after"),
    ("\nimport part\n", "SyntaxError in part.py, line 1: '(' was never closed"),
    (
        "import gone\n",
        "importing function.py failed: ModuleNotFoundError: No module named 'gone' (function.py, line 1)",
    ),
    ("import os\n\n1 / 0\n", "importing function.py failed: ZeroDivisionError: division by zero (function.py, line 3)"),
    ("import json\njson.loads('x')\n", "importing function.py failed: JSONDecodeError: Expecting value"),
    ("import sys\nsys.exit(3)\n", "importing function.py called exit(3) in function.py, line 2"),
    ("raise KeyboardInterrupt\n", "importing function.py failed: KeyboardInterrupt"),
    ("handler = 'text'\n", "'handler' in function.py cannot be called: it is of type str"),
    ("def handler(event): pass\n", "a handler takes (event, context), but 'handler' in function.py takes (event)"),
    ("def handler(a, b, c): pass\n", "a handler takes (event, context), but 'handler' in function.py takes (a, b, c)"),
    (
        "def handler(a, b, *, c): pass\n",
        "a handler takes (event, context), but 'handler' in function.py takes (a, b, c)",
    ),
    ("def handler(): pass\n", "a handler takes (event, context), but 'handler' in function.py takes ()"),
]


@pytest.mark.parametrize(("handler", "message"), MISSING)
def test_a_handler_that_is_not_there_is_missing(driver: Driver, handler: str, message: str) -> None:
    driver.write("fine.py", "def handler(e, c): pass\ndef other(e, c): pass\ndef _own(): pass\n")
    driver.write("empty.py", "")
    died = driver.died(driver.start(handler))
    assert isinstance(died.error, HandlerMissing)
    assert str(died.error) == message
    assert died.init


@pytest.mark.parametrize(("code", "message"), FAILING)
def test_a_handler_that_cannot_be_imported_or_called_has_failed(driver: Driver, code: str, message: str) -> None:
    driver.write("part.py", "x = (\n")
    environment = driver.start(code)
    died = driver.died(environment)
    assert isinstance(died.error, InitFailed)
    assert str(died.error).startswith(message)
    assert died.init
    assert driver.text(environment)[0].startswith("[ERROR] ")
    if died.body:
        assert set(json.loads(died.body)) == {"errorMessage", "errorType", "stackTrace"}
        assert "broker" not in "".join(json.loads(died.body)["stackTrace"])


def test_a_missing_import_in_the_package_of_a_handler_is_not_a_missing_handler(driver: Driver) -> None:
    driver.write("jobs/__init__.py", "import gone\n")
    driver.write("jobs/x.py", OK)
    for form in ("jobs/x.py:handler", "jobs.x:handler"):
        died = driver.died(driver.start(form))
        assert isinstance(died.error, InitFailed)
        assert str(died.error).endswith("No module named 'gone' (jobs/__init__.py, line 1)")
