"""uvicorn with one XADD a request: the least that accepts a webhook and does not lose it. No framework."""

import json
import os

from redis.asyncio import Redis

client = Redis(host="127.0.0.1", port=int(os.environ["BENCH_PORT"]))
HEADERS = [(b"content-type", b"application/json")]


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    body = b""
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    json.loads(body)
    number = await client.xadd("events", {"data": body})
    answer = b'{"id": "%b"}' % number
    await send(
        {"type": "http.response.start", "status": 202, "headers": [*HEADERS, (b"content-length", b"%d" % len(answer))]}
    )
    await send({"type": "http.response.body", "body": answer})
