"""`runtime = "nodejs"`: how a handler may answer, what it finds around it, and each way in which it is not found."""

# ruff: noqa: F401, F811 -- pytest finds the imported fixtures by their names

from __future__ import annotations

import json
from typing import Any

import pytest

from broker.errors import EnvironmentDied, HandlerMissing, InitFailed, OutOfMemory
from broker.runtime.messages import Died, Done, Ready
from tests.conftest import until
from tests.integration.environment_driver import Driver, driver, nursery

pytestmark = pytest.mark.timeout(60)

ANSWERS = """
exports.promise = async () => 1;
exports.thenable = () => ({ then: (done) => done(2) });
exports.value = () => 3;
exports.callback = (event, context, callback) => setTimeout(() => callback(null, 4), 1);
exports.late = (event, context, callback) => { callback(null, 5); setTimeout(() => console.log("after"), 20); };
exports.early = (event, context, callback) => {
  context.callbackWaitsForEmptyEventLoop = false;
  setTimeout(() => {}, 60000).unref(); setInterval(() => {}, 60000);
  callback(null, 6);
};
exports.done = (event, context) => setImmediate(() => context.done(null, 7));
exports.succeed = (event, context) => context.succeed(8);
exports.nothing = () => {};
exports.twice = (event, context, callback) => { callback(null, 10); callback(null, 11); };
"""


def nodejs(driver: Driver, code: str, name: str = "x.cjs:handler", **options: Any) -> Any:
    driver.write(name.partition(":")[0], code)
    return driver.start(name, runtime="nodejs", **options)


@pytest.mark.parametrize(
    ("name", "result"),
    [
        ("promise", 1),
        ("thenable", 2),
        ("value", 3),
        ("callback", 4),
        ("late", 5),
        ("early", 6),
        ("done", 7),
        ("succeed", 8),
        ("nothing", None),
        ("twice", 10),
    ],
)
def test_a_handler_answers_in_any_of_lambdas_ways_and_again(driver: Driver, name: str, result: object) -> None:
    environment = nodejs(driver, ANSWERS, f"x.cjs:{name}")
    ids = driver.send(environment, *range(3))
    driver.run(lambda: not environment.pending, within=30)
    done = [message for message in driver.messages[environment] if isinstance(message, Done)]
    assert [(message.invocation, json.loads(message.body)) for message in done] == [(id_, result) for id_ in ids]
    if name == "late":  # what is printed before the loop is empty belongs to the attempt
        assert driver.lines(environment)[0][0] == ids[0]


@pytest.mark.parametrize(
    ("code", "kind", "message"),
    [
        ("(e, c, callback) => callback(new RangeError('m'))", "RangeError", "m"),
        ("(e, c, callback) => callback('text')", "string", "text"),
        ("(e, c) => c.fail(new Error('m'))", "Error", "m"),
        ("async () => { throw { code: 7 } }", "object", '{"code":7}'),
        ("async () => { throw null }", "null", "null"),
        ("async () => { throw undefined }", "undefined", "undefined"),
        ("() => new Promise(() => {})", "Runtime.NeverSettled", "its promise was never settled, and nothing is left"),
        (
            "() => { const a = {}; a.a = a; return a }",
            "Runtime.MarshalError",
            "the result is not JSON: Converting circ",
        ),
        ("() => 1n", "Runtime.MarshalError", "the result is not JSON: Do not know how to serialize a BigInt"),
    ],
)
def test_a_failure_is_told_whatever_it_is(driver: Driver, code: str, kind: str, message: str) -> None:
    environment = nodejs(driver, f"exports.handler = {code};\n")
    for _ in range(2):
        error = driver.error(environment)
        assert (error["errorType"], error["errorMessage"][: len(message)]) == (kind, message)


def test_a_stack_shows_the_functions_own_frames_and_the_causes(driver: Driver) -> None:
    code = """
const deeper = () => { throw new TypeError("deep"); };
export async function handler() {
  try { deeper(); } catch (cause) { throw new Error("outer", { cause }); }
}
"""
    environment = nodejs(driver, code, "x.mjs:handler")
    error = driver.error(environment)
    assert [line.partition(" (")[0] for line in error["stackTrace"]] == ["    at handler"]
    printed = driver.text(environment)
    assert printed[0] == "[ERROR] Error: outer"
    assert "Caused by TypeError: deep" in printed
    assert "nodejs.mjs" not in "".join(printed)


@pytest.mark.parametrize("code", ["Promise.reject(new Error('lost'))", "setTimeout(() => { throw new Error('lost') })"])
def test_an_error_that_nobody_catches_fails_the_attempt_and_ends_the_environment(driver: Driver, code: str) -> None:
    environment = nodejs(
        driver, f"exports.handler = () => {{ {code}; return new Promise(r => setTimeout(r, 5000)) }}\n"
    )
    _, second = driver.send(environment, 1, 2)
    died = driver.died(environment)
    [done] = [message for message in driver.messages[environment] if isinstance(message, Done)]
    assert (done.ok, json.loads(done.body)["errorMessage"]) == (False, "lost")
    assert isinstance(died.error, EnvironmentDied)
    assert (died.current, died.unstarted) == (None, (second,))


def test_the_context_is_that_of_lambda(driver: Driver) -> None:
    code = "exports.handler = async (event, context) => ({ ...context, trace: process.env._X_AMZN_TRACE_ID })\n"
    environment = nodejs(driver, code, memory=100 << 20)
    environment.send("ab" * 16, 3, b"null", b'{"custom":{"a":"b"}}')
    environment.flush()
    driver.run(lambda: not environment.pending)
    done = driver.messages[environment][-1]
    assert isinstance(done, Done)
    context = json.loads(done.body)
    assert context.pop("logStreamName").endswith(f"[$LATEST]{environment.id}")
    assert context == {
        "functionName": "fn",
        "functionVersion": "$LATEST",
        "invokedFunctionArn": "arn:aws:lambda:local:000000000000:function:fn",
        "memoryLimitInMB": "100",
        "logGroupName": "/broker/fn",
        "awsRequestId": "ab" * 16,
        "attempt": 3,
        "callbackWaitsForEmptyEventLoop": True,
        "clientContext": {"custom": {"a": "b"}},
        "trace": f"Root=1-{'ab' * 4}-{'ab' * 12};Parent={'ab' * 8};Sampled=0",
    }


def test_the_console_tells_its_levels_and_a_full_pipe_keeps_the_order(driver: Driver) -> None:
    code = """
exports.handler = async () => {
  console.log("plain %d", 1); console.debug("d"); console.info("i"); console.warn("w"); console.error("e");
  for (let n = 0; n < 2000; n++) process.stdout.write(`${n} ${"x".repeat(100)}\\n`);
};
"""
    environment = nodejs(driver, code)
    [id_] = driver.send(environment, None)
    driver.run(lambda: not environment.pending)
    lines = driver.lines(environment)
    assert [line.text for _, line in lines[:5]] == ["plain 1", "[DEBUG]\td", "[INFO]\ti", "[WARNING]\tw", "[ERROR]\te"]
    assert [line.level for _, line in lines[:5]] == ["", "DEBUG", "INFO", "WARNING", "ERROR"]
    assert [line.text.partition(" ")[0] for _, line in lines[5:]] == [str(number) for number in range(2000)]
    assert {owner for owner, _ in lines} == {id_}


def test_an_exhausted_heap_is_out_of_memory(driver: Driver) -> None:
    code = "exports.handler = async () => { const a = []; for (;;) a.push(new Array(1000).fill(a.length)) }\n"
    environment = nodejs(driver, code, memory=96 << 20, timeout=40)
    driver.send(environment, None)
    died = driver.died(environment, within=40)
    assert isinstance(died.error, OutOfMemory), died


def test_what_a_handler_imports_is_watched_too(driver: Driver) -> None:
    driver.write("lib/deep.mjs", "export const value = 1;\n")
    driver.write("lib/near.mjs", 'export { value } from "./deep.mjs";\n')
    environment = nodejs(
        driver, 'import { value } from "./lib/near.mjs";\nexport const handler = () => value;\n', "x.mjs:handler"
    )
    assert driver.result(environment) == 1
    assert not environment.imported.stale()
    driver.write("lib/deep.mjs", "export const value = 22;\n")
    until(environment.imported.stale)


def test_a_package_beside_the_handler_is_found(driver: Driver) -> None:
    driver.write("node_modules/pack/index.js", "module.exports = 7;\n")
    assert (
        driver.result(nodejs(driver, 'import pack from "pack";\nexport const handler = () => pack;\n', "x.mjs:handler"))
        == 7
    )
    assert driver.result(nodejs(driver, 'exports.handler = () => require("pack");\n')) == 7


FAILING = [
    (
        "x.mjs:gone",
        "export const handler = 1;\nexport const other = () => {}\n",
        HandlerMissing,
        "x.mjs has no 'gone'; it exports other",
    ),
    ("x.cjs:gone", "", HandlerMissing, "x.cjs has no 'gone'"),
    (
        "x.mjs:handler",
        "export const handler = 1;\n",
        InitFailed,
        "'handler' in x.mjs cannot be called: it is of type number",
    ),
    (
        "x.mjs:handler",
        "export const handler = (a, b, c, d) => 1;\n",
        InitFailed,
        "a handler takes (event, context, callback), but 'handler' in x.mjs takes 4 arguments",
    ),
    ("x.mjs:handler", "export const = 1;\n", InitFailed, "SyntaxError in x.mjs, line 1: Unexpected token '='"),
    ("x.mjs:handler", 'import "./y.mjs";\n', InitFailed, "SyntaxError in y.mjs, line 2: Unexpected "),
    ("x.cjs:handler", "\nexports.handler = (;\n", InitFailed, "SyntaxError in x.cjs, line 2: Unexpected token ';'"),
    (
        "x.mjs:handler",
        'import "gone";\nexport const handler = () => 1;\n',
        InitFailed,
        "importing x.mjs failed: Error: Cannot find package 'gone' imported from",
    ),
    ("x.cjs:handler", 'require("gone");\n', InitFailed, "importing x.cjs failed: Error: Cannot find module 'gone'"),
    (
        "x.cjs:handler",
        "\nnull.x;\n",
        InitFailed,
        "importing x.cjs failed: TypeError: Cannot read properties of null (reading 'x') (x.cjs, line 2)",
    ),
    ("x.mjs:handler", "process.exit(3);\n", InitFailed, "x.mjs:handler: importing it called process.exit(3)"),
    (
        "x.mjs:handler",
        "await new Promise(() => {});\n",
        InitFailed,
        "x.mjs:handler: it awaits at its top what never comes",
    ),
    (
        "x.mjs:handler",
        "Promise.reject(new Error('m'));\nawait new Promise(r => setTimeout(r, 5000))\n",
        InitFailed,
        "importing x.mjs",
    ),
]


@pytest.mark.parametrize(("handler", "code", "kind", "message"), FAILING)
def test_each_way_to_fail_has_its_own_error(
    driver: Driver, handler: str, code: str, kind: type[Exception], message: str
) -> None:
    driver.write("y.mjs", "\nlet = 7;\nlet 7 = y\n")
    environment = nodejs(driver, code, handler)
    died = driver.died(environment)
    assert (type(died.error), str(died.error)[: len(message)], died.init) == (kind, message, True)
    assert any(line.startswith("[ERROR] ") for line in driver.text(environment))
    if died.body:
        assert set(json.loads(died.body)) == {"errorMessage", "errorType", "stackTrace"}


@pytest.mark.parametrize(
    ("handler", "message"),
    [
        ("gone.mjs:handler", "there is no file gone.mjs"),
        ("gone.handler", "there is no file gone"),
        ("handler", "expected file.mjs:name or file.name, got 'handler'"),
    ],
)
def test_a_file_that_is_not_there_is_missing(driver: Driver, handler: str, message: str) -> None:
    died = driver.died(driver.start(handler, runtime="nodejs"))
    assert (type(died.error), str(died.error)) == (HandlerMissing, message)
