"""broker: what is measured here. BROKER_CONFIG names the project, which bench/project.py writes."""

from broker.config import load
from broker.event import Event
from broker.ledger import Ledger
from broker.publisher import Publisher
from broker.store import connection

config = load()
publisher = Publisher(config, Ledger(connection.connect(config)))
TIME = "2026-11-23T00:00:00.000000Z"


def event(name, number, sent):
    return Event(id=str(number), source=name, type="bench", time=TIME, data={"number": number, "sent": sent})


def send(name, number, sent):
    publisher.publish([event(name, number, sent)])


def send_many(name, numbers):
    publisher.publish([event(name, number, 0) for number in numbers])
