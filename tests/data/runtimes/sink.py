"""Does what its event says: the same in each runtime, see tests/integration/test_runtimes.py."""

import os
import pathlib
import signal
import subprocess
import sys
import time

counts = []


class Trouble(Exception):
    pass


def handler(event, context):
    counts.append(1)
    return globals()[event["do"]](event.get("with"), context)


def echo(given, context):
    return given


def warm(given, context):
    return len(counts)


def fail(given, context):
    raise Trouble("no luck")


def shout(given, context):
    for number in range(3):
        print("out", number, given)
        sys.stdout.flush()
    subprocess.run(["echo", "child"], check=True)
    print("err", given, file=sys.stderr)


def big(given, context):
    return "x" * given


def tell(given, context):
    variables = {name: os.environ.get(name) for name in given}
    fields = [context.aws_request_id, context.function_name, context.get_remaining_time_in_millis()]
    return {"variables": variables, "cwd": str(pathlib.Path.cwd()), "fields": fields}


def hang(given, context):
    subprocess.Popen(["sleep", "60"])
    subprocess.Popen(["sleep", "60"], start_new_session=True)
    print("hanging", flush=True)
    time.sleep(60)


def leave(given, context):
    os._exit(given)


def crash(given, context):
    os.kill(os.getpid(), signal.SIGSEGV)
    time.sleep(5)


def fill(given, context):
    hoard = []
    while True:
        hoard.append(bytes([len(hoard) % 256]) * (8 << 20))
        time.sleep(0.01)


def nan(given, context):
    return [float("nan")]
