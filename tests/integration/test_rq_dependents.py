"""Jobs of RQ that depend on invocations of ours go to their queues when those end, as RQ has it."""

from __future__ import annotations

import pytest
from rq import Queue
from rq.job import Dependency

CODE = """
import time
def handler(event, context):
    if event["data"] == "bad":
        raise ValueError("bad")
    if event["data"] == "hold":
        time.sleep(60)
    return event["data"]
"""


@pytest.fixture
def mail(redis_client):
    return Queue("mail", connection=redis_client)


def statuses(*jobs):
    return [job.get_status().value for job in jobs]


def depends(mail, *ids, failure=False, **how):
    return mail.enqueue("jobs.add", 1, 2, depends_on=Dependency(jobs=list(ids), allow_failure=failure), **how)


def test_dependents_are_enqueued_when_all_have_finished(project, mail):
    project.configure(CODE)
    usual, other = project.push(None, "with a result")
    later = depends(mail, usual, other)
    front = depends(mail, other)
    front.enqueue_at_front = True
    front.save()
    two = depends(Queue("two", connection=mail.connection), usual)
    assert statuses(later, front, two) == ["deferred"] * 3
    assert later.id in mail.deferred_job_registry
    project.worker()
    project.ends(usual)
    project.ends(other)
    assert statuses(later, front, two) == ["queued"] * 3
    assert mail.job_ids == [front.id, later.id]
    assert mail.deferred_job_registry.count == 0
    assert not project.client.exists(f"rq:job:{other}:dependents")
    assert project.client.ttl(f"rq:job:{usual}:dependents") > 0  # of those that had to wait for the other
    at_once = depends(mail, usual)  # it has finished already
    assert statuses(at_once) == ["queued"]
    mail.empty()
    Queue("two", connection=mail.connection).empty()


def test_after_a_failure_only_those_go_that_allow_it_and_the_rest_after_a_replay(project, mail):
    project.configure(CODE, retry={"attempts": 1})
    (bad,) = project.push("bad")
    never, anyway = depends(mail, bad), depends(mail, bad, failure=True)
    project.worker()
    project.ends(bad, "failed")
    assert statuses(never, anyway) == ["deferred", "queued"]
    (project.root / "f.py").write_text("def handler(event, context): return event['data']\n")
    mail.connection.delete("rq:queue:mail")
    from rq.job import Job

    Job.fetch(bad, connection=mail.connection, serializer="json").requeue()
    project.ends(bad)
    assert statuses(never) == ["queued"]
    mail.empty()


def test_one_with_a_rate_limit_waits_for_rq_to_let_it_in(project, mail):
    from rq.rate_limit import RateLimit

    project.configure(CODE)
    (id,) = project.push(1)
    job = depends(mail, id, rate_limit=RateLimit(key="one", concurrency=1))
    project.worker()
    project.ends(id)
    assert job.id in mail.ready_job_registry
    mail.ready_job_registry.cleanup()  # any worker of that queue does it
    assert statuses(job) == ["queued"]
    mail.empty()


def test_cancelled_dependents_stay_where_they_are(project, mail):
    project.configure(CODE)
    (id,) = project.push(1)
    job = depends(mail, id)
    job.cancel()
    project.worker()
    project.ends(id)
    assert statuses(job) == ["canceled"]
    assert mail.count == 0
    job.delete()
