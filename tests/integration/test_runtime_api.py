"""`runtime = "provided"`: the AWS Lambda Runtime API, as its clients see it."""

# ruff: noqa: F401, F811 -- pytest finds the imported fixtures by their names

from __future__ import annotations

import json
import shutil
import socket
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from broker.errors import Exited, HandlerMissing, InitFailed, TimedOut
from broker.runtime.messages import Died, Done, Ready
from tests.conftest import until
from tests.integration.environment_driver import Driver, driver, nursery

if TYPE_CHECKING:
    from broker.runtime.environment import Environment

pytestmark = pytest.mark.timeout(60)

FILES = Path(__file__).parents[1] / "data/runtimes"

CLIENT = '''\
#!/usr/bin/env python3
"""Does over one connection what the event lists; answers with what came back."""
import base64, http.client, json, os, sys, time

BASE = "/2018-06-01/runtime"
connection = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])

def ask(method, path, body=None, **more):
    connection.request(method, BASE + path, body, **more)
    response = connection.getresponse()
    return response, response.read()

'''

LOOP = """
while True:
    response, event = ask("GET", "/invocation/next")
    id = response.headers["Lambda-Runtime-Aws-Request-Id"]
    event = json.loads(event)
    def answer(result, **more):
        return ask("POST", f"/invocation/{id}/response", json.dumps(result), **more)
    def fail(body, **headers):
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        return ask("POST", f"/invocation/{id}/error", body, headers=headers)
    def stream(pieces, trailers="", **headers):
        connection.putrequest("POST", f"{BASE}/invocation/{id}/response")
        connection.putheader("Transfer-Encoding", "chunked")
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        for piece in pieces:
            connection.send(b"%x\\r\\n%b\\r\\n" % (len(piece), piece))
            time.sleep(0.01)
        connection.send(b"0\\r\\n" + trailers.encode() + b"\\r\\n")
        response = connection.getresponse()
        return response, response.read()
"""


def started(driver: Driver, body: str, *, loop: str = LOOP, **options: Any) -> Environment:
    lines = "".join(f"    {line}\n" for line in body.splitlines()) if loop else body
    driver.write("bootstrap", "")
    (driver.root / "bootstrap").write_text(CLIENT + loop + lines)
    (driver.root / "bootstrap").chmod(0o755)
    return driver.start("bootstrap", runtime="provided", **options)


def done(driver: Driver, environment: Environment, event: Any = None) -> Done:
    message = driver.call(environment, event)
    assert isinstance(message, Done), message
    return message


def test_the_headers_of_an_invocation_are_those_of_aws(driver: Driver) -> None:
    environment = started(driver, "answer(dict(response.headers))", timeout=20)
    environment.send("ab" * 16, 3, b"null", b'{"custom":{"a":"b"}}')
    environment.flush()
    driver.run(lambda: not environment.pending)
    message = driver.messages[environment][-1]
    assert isinstance(message, Done)
    headers = json.loads(message.body)
    deadline = int(headers.pop("Lambda-Runtime-Deadline-Ms")) / 1000
    assert 10 < deadline - time.time() <= 20
    assert headers == {
        "Content-Type": "application/json",
        "Content-Length": "4",
        "Lambda-Runtime-Aws-Request-Id": "ab" * 16,
        "Lambda-Runtime-Invoked-Function-Arn": "arn:aws:lambda:local:000000000000:function:fn",
        "Lambda-Runtime-Trace-Id": f"Root=1-{'ab' * 4}-{'ab' * 12};Parent={'ab' * 8};Sampled=0",
        "Lambda-Runtime-Client-Context": '{"custom": {"a": "b"}}',
        "Broker-Attempt": "3",
    }


def test_the_tutorial_of_aws_works_with_a_connection_for_each_request(driver: Driver) -> None:
    shutil.copy(FILES / "curl-bootstrap", driver.root / "bootstrap")
    environment = driver.warm("bootstrap:function.handler", runtime="provided")
    for number in range(3):
        result = driver.result(environment, {"n": number, "text": "x" * 3000})
        assert (result["handler"], result["event"]["n"]) == ("function.handler", number)


def test_a_streamed_response_is_put_together(driver: Driver) -> None:
    environment = started(
        driver, "stream([b'{\"a\":', b' [1,', b'2]}'], Lambda_Runtime_Function_Response_Mode='streaming')"
    )
    assert done(driver, environment).body == b'{"a": [1,2]}'


def test_a_stream_that_is_not_json_becomes_a_string(driver: Driver) -> None:
    environment = started(driver, "stream([b'one ', b'two'], Lambda_Runtime_Function_Response_Mode='streaming')")
    assert done(driver, environment).body == b'"one two"'


def test_a_streamed_answer_for_http_becomes_the_gateways_object(driver: Driver) -> None:
    kind = "application/vnd.awslambda.http-integration-response"
    code = f"stream([b'{{\"statusCode\": 201}}', bytes(8), b'hi'], Content_Type={kind!r})"
    result = json.loads(done(driver, started(driver, code)).body)
    assert result == {"statusCode": 201, "body": "hi", "isBase64Encoded": False}


def test_a_stream_that_fails_on_the_way_says_so_in_its_trailers(driver: Driver) -> None:
    environment = started(
        driver,
        """
error = base64.b64encode(b'{"errorMessage": "half way", "errorType": "Trouble"}').decode()
kind = "Lambda-Runtime-Function-Error-Type: Function.Trouble"
stream([b"half"], f"{kind}\\r\\nLambda-Runtime-Function-Error-Body: {error}\\r\\n")
""",
    )
    message = done(driver, environment)
    error = json.loads(message.body)
    assert (message.ok, error["errorType"], error["errorMessage"]) == (False, "Trouble", "half way")


def test_a_response_that_breaks_off_is_an_error(driver: Driver) -> None:
    environment = started(
        driver,
        """
connection.putrequest("POST", f"{BASE}/invocation/{id}/response")
connection.putheader("Content-Length", "100")
connection.endheaders()
connection.send(b'{"a": 1')
connection.close()
""",
    )
    message = done(driver, environment)
    assert (message.ok, json.loads(message.body)["errorType"]) == (False, "Runtime.TruncatedResponse")
    assert not done(driver, environment).ok


@pytest.mark.parametrize(
    ("code", "kind", "text", "stack"),
    [
        ("""fail('{"errorMessage": "m", "errorType": "T", "stackTrace": ["a", "b"]}')""", "T", "m", ["a", "b"]),
        ("""fail('{"errorMessage": "m"}', Lambda_Runtime_Function_Error_Type="Function.T")""", "Function.T", "m", []),
        ("""fail('{"errorMessage": "m", "errorType": "T", "trace": ["a"]}')""", "T", "m", ["a"]),
        (
            """fail('{"errorType": "T", "stackTrace": [{"path": "main.go", "line": 3}]}')""",
            "T",
            "",
            ['{"path": "main.go", "line": 3}'],
        ),
        ("fail('not json')", "Unknown", "not json", []),
        ("fail('[1]')", "Unknown", "[1]", []),
        ("fail(b'')", "Unknown", "", []),
    ],
)
def test_the_errors_of_all_clients_are_understood(
    driver: Driver, code: str, kind: str, text: str, stack: list[str]
) -> None:
    environment = started(driver, code)
    error = driver.error(environment)
    assert (error["errorType"], error["errorMessage"], error["stackTrace"]) == (kind, text, stack)
    assert f"[ERROR] {kind}: {text}" in driver.text(environment)
    assert not done(driver, environment).ok  # it goes on


def test_what_the_api_does_not_know_is_refused_and_told_why(driver: Driver) -> None:
    environment = started(
        driver,
        """
said = []
for method, path in [
    ("GET", "/nothing"), ("POST", "/invocation/next"), ("GET", "/../x"),
    ("POST", "/invocation/other/response"), ("POST", "/invocation/other/error"), ("GET", "/invocation/next"),
]:
    back, body = ask(method, path, "{}" if method == "POST" else None)
    said.append([back.status, json.loads(body)["errorType"]])
answer(said)
""",
    )
    assert json.loads(done(driver, environment).body) == [
        [404, "NotFound"],
        [404, "NotFound"],
        [404, "NotFound"],
        [400, "InvalidRequestID"],
        [400, "InvalidRequestID"],
        [403, "InvalidStateTransition"],
    ]


def test_a_response_is_accepted_once_and_not_when_it_is_too_long(driver: Driver) -> None:
    environment = started(
        driver,
        """
if event == "long":
    answer("x" * 7_000_000)[0].status == 413 or sys.exit(9)
else:
    first, second = answer(1)[0].status, answer(2)[0].status
    (first, second) == (202, 400) or sys.exit(9)
""",
    )
    assert done(driver, environment).body == b"1"
    assert json.loads(done(driver, environment, "long").body)["errorType"] == "Function.ResponseSizeTooLarge"
    assert done(driver, environment).body == b"1"


def test_a_client_that_waits_for_continue_is_told_to(driver: Driver) -> None:
    environment = started(
        driver,
        """
import subprocess
url = f"http://{os.environ['AWS_LAMBDA_RUNTIME_API']}{BASE}/invocation/{id}/response"
waits = ["--expect100-timeout", "60", "-H", "Expect: 100-continue"]
subprocess.run(["curl", "-sS", *waits, url, "-d", '"sent"'], check=True)
""",
    )
    assert done(driver, environment).body == b'"sent"'


def test_an_error_of_init_is_the_reason(driver: Driver) -> None:
    code = (
        """ask("POST", "/init/error", '{"errorMessage": "no database", "errorType": "Setup.Failed"}')\ntime.sleep(60)"""
    )
    died = driver.died(started(driver, code, loop=""))
    assert isinstance(died.error, InitFailed)
    assert str(died.error) == "Setup.Failed: no database"
    assert died.init


def test_one_that_ends_before_it_asks_for_an_invocation_has_died_in_init(driver: Driver) -> None:
    environment = started(driver, "print('no config', file=sys.stderr)\nsys.exit(3)", loop="")
    died = driver.died(environment)
    assert isinstance(died.error, Exited)
    assert (str(died.error), died.init) == ("exited with status 3", True)
    assert driver.text(environment) == ["no config"]


def test_one_that_never_asks_for_an_invocation_is_ended_after_init_timeout(driver: Driver) -> None:
    died = driver.died(started(driver, "time.sleep(60)", loop="", init_timeout=0.5))
    assert isinstance(died.error, TimedOut)
    assert died.init


def test_a_program_that_is_not_there_is_missing_and_one_that_cannot_run_has_failed(driver: Driver) -> None:
    assert isinstance(driver.died(driver.start("./gone", runtime="provided")).error, HandlerMissing)
    driver.write("data", "no program")
    (driver.root / "data").chmod(0o755)
    died = driver.died(driver.start("./data", runtime="provided"))
    assert isinstance(died.error, InitFailed)
    assert "Exec format error" in str(died.error)


def test_what_a_program_ends_between_two_invocations_is_not_held_against_the_next(driver: Driver) -> None:
    environment = started(driver, "answer(1)\nsys.exit(5)")
    driver.run(lambda: any(isinstance(message, Ready) for message in driver.messages[environment]))
    _, second = driver.send(environment, 1, 2)
    died = driver.died(environment)
    assert (died.current, died.unstarted) == (None, (second,))
    assert str(died.error) == "exited with status 5"


def test_the_farewell_is_a_sigterm(driver: Driver) -> None:
    code = """
import signal
def bye(*_):
    print("bye", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, bye)
answer(None)
"""
    environment = started(driver, code)
    assert done(driver, environment).ok
    environment.stop()
    assert str(driver.died(environment).error) == "was stopped"
    assert driver.text(environment) == ["bye"]


def test_only_processes_of_the_environment_may_ask(driver: Driver) -> None:
    environment = started(driver, "answer(os.environ['AWS_LAMBDA_RUNTIME_API'])")
    host, port = json.loads(done(driver, environment).body).split(":")
    with socket.create_connection((host, int(port)), timeout=10) as stranger:
        stranger.sendall(b"GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\n\r\n")
        driver.send(environment, "secret")
        driver.run(lambda: not environment.pending)
        try:
            said = stranger.recv(1000)
        except ConnectionResetError:
            said = b""
    assert said == b""


def test_a_stranger_with_the_port_of_our_client_at_another_address_may_not_ask(driver: Driver) -> None:
    code = "answer([os.environ['AWS_LAMBDA_RUNTIME_API'], connection.sock.getsockname()[1]])"
    environment = started(driver, code)
    address, port = json.loads(done(driver, environment).body)
    host, _, ours = address.partition(":")
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.2", port))
        stranger.settimeout(10)
        stranger.connect((host, int(ours)))
        stranger.sendall(b"GET /2018-06-01/runtime/nothing HTTP/1.1\r\n\r\n")
        try:
            said = stranger.recv(1000)
        except ConnectionResetError:
            said = b""
    assert said == b""
    assert done(driver, environment).ok


def test_a_client_that_speaks_ipv6_alone_may_ask(driver: Driver) -> None:
    code = """
port = int(os.environ["AWS_LAMBDA_RUNTIME_API"].rpartition(":")[2])
connection = http.client.HTTPConnection("::ffff:127.0.0.1", port)
answer(connection.sock and connection.sock.getsockname()[0])
"""
    assert done(driver, started(driver, code)).ok


def test_a_stranger_that_hangs_up_at_once_ends_nothing(driver: Driver) -> None:
    environment = started(driver, "time.sleep(0.5)\nanswer(os.environ['AWS_LAMBDA_RUNTIME_API'])")
    host, port = json.loads(done(driver, environment).body).split(":")
    for _ in range(50):
        with socket.create_connection((host, int(port)), timeout=10) as stranger:
            stranger.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, no farewell
    assert done(driver, environment).ok


def test_a_daemon_of_the_function_may_ask(driver: Driver) -> None:
    environment = started(
        driver,
        """
url = f"http://{os.environ['AWS_LAMBDA_RUNTIME_API']}{BASE}/invocation/{id}/response"
os.system(f"setsid sh -c 'sleep 0.1; curl -sS {url} -d 7' &")
""",
    )
    assert done(driver, environment).body == b"7"


def test_the_processor_time_of_the_program_is_told_with_each_attempt(driver: Driver) -> None:
    environment = started(driver, "end = time.process_time() + 0.2\nwhile time.process_time() < end: pass\nanswer(1)")
    told = [done(driver, environment).cpu_us for _ in range(2)]
    assert all(200_000 <= one < 2_000_000 for one in told)
