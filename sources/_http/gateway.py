"""Requests as API Gateway would hand them over (HTTP API, payload version 2.0), for `payload = "aws"`; pure.

Format: https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-develop-integrations-lambda.html
"""

from __future__ import annotations

import json
import re
from typing import Any, TypeGuard
from urllib.parse import quote, urlencode

from broker.cloudevents import is_json, media_type
from broker.payload import ACCOUNT, CloudEvent, digest, moment
from sources._http.route import METHODS, Route

_SAFE_IN_PATH = "/:@!$&'()*+,;=~"
_PARAMETER = re.compile(r"\{(\w+)(?::(\w+))?\}")


def proxied(event: CloudEvent, route: Route) -> dict[str, Any] | None:
    """Return the request of an event; None when the event is no request's.

    The stage is `$default`. Of a body that was JSON the text is written anew, unless the source keeps it (`raw`).
    """
    data = event.get("data")
    if not _is_request(data):
        return None
    method, path = data["method"], data["path"]
    key = f"{'ANY' if route.methods == METHODS else method} {_PARAMETER.sub(_named, route.path)}"
    headers = {name: str(value) for name, value in data["headers"].items()}
    cookies = [one for one in headers.pop("cookie", "").split("; ") if one]
    host = re.sub(r":\d+$", "", headers.get("host", "localhost"))
    when = moment(event)
    proxied: dict[str, Any] = {
        "version": "2.0",
        "routeKey": key,
        "rawPath": quote(path, safe=_SAFE_IN_PATH, errors="surrogatepass"),
        "rawQueryString": urlencode(data["query"], doseq=True, quote_via=quote, errors="surrogatepass"),
        "headers": headers,
        "requestContext": {
            "accountId": ACCOUNT,
            "apiId": event["source"],
            "domainName": host,
            "domainPrefix": host.partition(".")[0],
            "http": {
                "method": method,
                "path": path,
                "protocol": "HTTP/1.1",
                "sourceIp": str(data.get("client") or "127.0.0.1").partition("%")[0],
                "userAgent": headers.get("user-agent", ""),
            },
            "requestId": digest(event),
            "routeKey": key,
            "stage": "$default",
            "time": f"{when:%d/%b/%Y:%H:%M:%S +0000}",
            "timeEpoch": int(when.timestamp() * 1000),
        },
        **_body(data, headers),
    }
    if cookies:
        proxied["cookies"] = cookies
    if data["query"]:
        proxied["queryStringParameters"] = {name: _joined(value) for name, value in data["query"].items()}
    if data["parameters"]:
        proxied["pathParameters"] = {name: str(value) for name, value in data["parameters"].items()}
    return proxied


def _is_request(data: Any) -> TypeGuard[dict[str, Any]]:
    return (
        isinstance(data, dict)
        and all(isinstance(data.get(name), str) for name in ("method", "path"))
        and all(isinstance(data.get(name), dict) for name in ("headers", "query", "parameters"))
    )


def _named(parameter: re.Match[str]) -> str:
    """Return a parameter as API Gateway writes it: what takes all the rest has a plus."""
    return f"{{{parameter[1]}+}}" if parameter[2] == "path" else f"{{{parameter[1]}}}"


def _body(data: dict[str, Any], headers: dict[str, str]) -> dict[str, Any]:
    for name in ("raw_base64", "body_base64"):
        if name in data and "raw" not in data:
            return {"body": data[name], "isBase64Encoded": True}
    body = data.get("raw", data.get("body"))
    is_text = "raw" in data or (isinstance(body, str) and not is_json(media_type(headers.get("content-type", ""))))
    if not is_text and (
        body is not None or headers.get("content-length", "0") != "0"
    ):  # the JSON text `null` is a body
        body = json.dumps(body, separators=(",", ":"))
    return {"body": body, "isBase64Encoded": False} if body else {"isBase64Encoded": False}


def _joined(value: Any) -> str:
    return ",".join(value) if isinstance(value, list) else str(value)
