"""Birth: what a new environment is told: its handler, its variables, its limits."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from broker import runtimes
from broker.function import Function
from broker.payload import REGION, arn
from broker.runtime.inside.frames import frame
from broker.runtime.inside.limits import MARK
from broker.runtime.stage import Stage

INHERITED = frozenset(
    {
        "PATH",
        "HOME",
        "USER",
        "LOGNAME",
        "SHELL",
        "LANG",
        "LANGUAGE",
        "TZ",
        "LD_LIBRARY_PATH",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "VIRTUAL_ENV",
        "PYTHONPATH",
        "PYTHONDONTWRITEBYTECODE",
        "PYTHONPYCACHEPREFIX",
    }
)
"""The variables that functions share with the broker, besides LC_*; others, and so every secret, are kept from them."""


def nursery_variables(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variables of the nursery; each environment overwrites the mark in place."""
    kept = {name: value for name, value in environ.items() if name in INHERITED or name.startswith("LC_")}
    return {**kept, MARK: "0" * 32}


def request(
    function: Function,
    *,
    environment: str,
    token: str,
    stage: Stage,
    bounds: Mapping[str, Any],
    told: Mapping[str, str],
) -> bytes:
    """Return the frame that asks the nursery for an environment.

    `told` are variables that the function's own may replace; `bounds` is for broker/runtime/inside/confinement.py.
    """
    runtime = runtimes.find(function.runtime)
    spec = {
        "start": environment,
        "name": function.name,
        "handler": function.handler,
        "speech": runtime.SPEECH,
        "argv": runtime.argv(function.handler, stage.root, function.memory),
        "root": str(stage.root),
        "layers": [str(layer) for layer in stage.layers],
        "token": token,
        "max_result": int(function.max_result),
        "variables": {
            **told,
            **stage.variables(function.variables),
            **lambda_variables(function, environment, stage.root),
        },
        "bounds": bounds,
        "arn": arn("lambda", f"function:{function.name}", region_of(function)),
    }
    return frame(msgspec.json.encode(spec))


def lambda_variables(function: Function, environment: str, root: Path) -> dict[str, str]:
    """Return the variables of AWS Lambda's environments, as far as they make sense here.

    All bootstraps make the context's fields of these, and set `_X_AMZN_TRACE_ID` for each invocation. Region and time
    zone are the function's own if it names them.
    https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html
    """
    told, runtime = function.variables, runtimes.find(function.runtime)
    region = region_of(function)
    return {
        "_HANDLER": runtime.inner(function.handler),
        "AWS_REGION": region,
        "AWS_DEFAULT_REGION": told.get("AWS_DEFAULT_REGION", region),
        **({"AWS_EXECUTION_ENV": f"AWS_Lambda_{runtime.LANGUAGE}"} if runtime.LANGUAGE else {}),
        "AWS_LAMBDA_FUNCTION_NAME": function.name,
        "AWS_LAMBDA_FUNCTION_VERSION": function.version,
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(max(1, function.memory >> 20)),
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "AWS_LAMBDA_LOG_GROUP_NAME": f"/broker/{function.name}",
        "AWS_LAMBDA_LOG_STREAM_NAME": f"{datetime.now(UTC):%Y/%m/%d}/[{function.version}]{environment}",
        "AWS_XRAY_CONTEXT_MISSING": told.get("AWS_XRAY_CONTEXT_MISSING", "LOG_ERROR"),
        "LAMBDA_TASK_ROOT": str(root),
        "LAMBDA_RUNTIME_DIR": str(Path(__file__).parent),
        "TZ": told.get("TZ") or os.environ.get("TZ") or ":UTC",
    }


def region_of(function: Function) -> str:
    """Return the AWS region that a function sees: what its variables say, for those that use AWS' services."""
    return function.variables.get("AWS_REGION", REGION)
