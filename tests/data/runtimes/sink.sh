#!/usr/bin/env python3
"""sink.py as a program of its own: event on stdin, result as the last line, variables instead of a context."""

import json
import os
import pathlib
import sys
import time
import types

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import sink

left = int(os.environ["BROKER_DEADLINE_MS"]) - int(time.time() * 1000)
context = types.SimpleNamespace(
    aws_request_id=os.environ["BROKER_INVOCATION"],
    function_name=os.environ["BROKER_FUNCTION"],
    get_remaining_time_in_millis=lambda: left,
)
try:
    result = sink.handler(json.load(sys.stdin), context)
except sink.Trouble as error:
    sys.exit(str(error))
print(json.dumps(result))
