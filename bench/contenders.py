"""Contenders: broker and the peers, each with what it takes to install, to start and to load it."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

OURS = "broker"

CLIENT = "hiredis"
"""All of them read the server's answers with it, as broker does."""


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One way to run the task. In commands `{bin}`, `{port}` and `{config}` are filled in."""

    name: str
    app: str
    """Its module in bench/apps."""
    commands: tuple[str, ...]
    count: int
    """Invocations to drain: about three seconds of work."""
    venv: str = ""
    """The name of its virtual environment; ours is the one that runs this."""
    requirements: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    function: str = "noop"
    options: str = ""
    """Of ours: more lines for the function's table."""
    embedded: bool = False
    """Of ours: with its own embedded server, that is with the append-only file and a Unix socket."""

    @property
    def ours(self) -> bool:
        """Whether it is broker."""
        return not self.venv


WORKER = f"{sys.executable} -m broker --config {{config}} worker"
RQ = "{bin}/rq worker -q -u redis://127.0.0.1:{port}/0 bench"
RQ_POOL = "{bin}/rq worker-pool -q -u redis://127.0.0.1:{port}/0 bench -n 2 -w rq.SimpleWorker"
CELERY = "{bin}/celery -A celery_app worker -l WARNING -P prefork -c 2"
SAQ = "{bin}/saq saq_app.settings --workers 2"
HUEY = "{bin}/huey_consumer huey_app.huey -q -w 2 -k process"
TASKIQ = "{bin}/taskiq worker taskiq_app:broker --log-level WARNING -w 2"
DRAMATIQ = "{bin}/dramatiq dramatiq_app --path . -p 2 -t 4"

BROKER = Contender(name=OURS, app="broker_app", commands=(WORKER,), count=40_000)
BROKER_2 = Contender(name="broker, 2 workers", app="broker_app", commands=(WORKER, WORKER), count=40_000)
BROKER_BATCH = Contender(
    name="broker, batches of 100",
    app="broker_app",
    commands=(WORKER,),
    count=150_000,
    function="several",
    options='batch = { size = 100, window = "1s" }',
)
BROKER_BATCH_2 = Contender(
    name="broker, batches of 100, 2 workers",
    app="broker_app",
    commands=(WORKER, WORKER),
    count=150_000,
    function="several",
    options='batch = { size = 100, window = "1s" }',
)
BROKER_SHIPPED = Contender(
    name="broker as shipped (append-only file, Unix socket)",
    app="broker_app",
    commands=(WORKER,),
    count=40_000,
    embedded=True,
)

_rq = ("rq>=3,<4", CLIENT)
PEERS = (
    Contender(name="RQ worker (fork)", app="rq_app", venv="rq", requirements=_rq, commands=(RQ,), count=300),
    Contender(
        name="RQ pool of 2 (SimpleWorker)", app="rq_app", venv="rq", requirements=_rq, commands=(RQ_POOL,), count=3_000
    ),
    Contender(
        name="Celery prefork 2, late acks",
        app="celery_app",
        venv="celery",
        requirements=("celery[redis]>=5.5,<6", CLIENT),
        commands=(CELERY,),
        count=5_000,
    ),
    Contender(
        name="SAQ, 2 workers",
        app="saq_app",
        venv="saq",
        requirements=("saq[redis,hiredis]>=0.26,<1", "typing_extensions"),
        commands=(SAQ,),
        count=13_000,
    ),
    Contender(
        name="Huey, 2 processes",
        app="huey_app",
        venv="huey",
        requirements=("huey>=3,<4", "redis", CLIENT),
        commands=(HUEY,),
        count=25_000,
    ),
    Contender(
        name="taskiq list, 2 workers",
        app="taskiq_app",
        venv="taskiq",
        requirements=("taskiq<1", "taskiq-redis", CLIENT),
        commands=(TASKIQ,),
        count=23_000,
    ),
    Contender(
        name="Dramatiq 2x4, prefetch 200",
        app="dramatiq_app",
        venv="dramatiq",
        requirements=("dramatiq[redis]>=2,<3", CLIENT),
        commands=(DRAMATIQ,),
        count=30_000,
        variables={"dramatiq_queue_prefetch": "200"},
    ),
)
