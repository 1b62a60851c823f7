"""What a newcomer does in the first ten minutes, with the configuration and the functions that ship."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import tarfile
from contextlib import closing
from datetime import UTC, datetime
from uuid import uuid4

import httpx
import pytest
from PIL import Image
from standardwebhooks import Webhook

from tests.acceptance.running import Broker
from tests.conftest import until

CSV = "city,day,temperature,rain\nOslo,2026-11-21,-3.5,0\nOslo,2026-11-22,-4,1.2\nBergen,2026-11-22,5.5,30\n"
SECRET = "whsec_YSBkZW1vIHNlY3JldCB0aGF0IGV2ZXJ5b25lIGtub3dz"


class Shipped(Broker):
    """A broker with what ships."""

    def rows(self, query: str) -> list[tuple[object, ...]]:
        """Return what the database answers; nothing while it is not there."""
        if not (self.root / "data/weather.db").exists():
            return []
        with closing(sqlite3.connect(self.root / "data/weather.db", timeout=10)) as database:
            try:
                return database.execute(query).fetchall()
            except sqlite3.OperationalError:  # its tables are being made
                return []

    def load(self, name: str = "november.csv", text: str = CSV) -> None:
        """Put a CSV file into the inbox, if it was not there before, and wait until it has been dealt with."""
        done = self.root / "inbox/done" / name
        until((self.root / "inbox").is_dir, within=15, what="the source makes its folder")
        if not done.exists():
            (self.root / "inbox" / name).write_text(text)
        until(lambda: done.exists() and done.read_text() == text, within=15, what=self.screen.read_text)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def wait_for_http(self) -> None:
        until(lambda: "/chat" in self.screen.read_text().partition("INFO listening: POST")[2], within=15)

    def chat(self, text: str, secret: str = SECRET) -> httpx.Response:
        body = json.dumps({"text": text})
        ident, now = f"msg_{uuid4().hex}", datetime.now(UTC)
        headers = {
            "content-type": "application/json",
            "webhook-id": ident,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": Webhook(secret).sign(ident, now, body),
        }
        return httpx.post(self.url("/chat"), content=body, headers=headers, timeout=15)

    def attempts(self, function: str) -> int:
        """Return how many attempts the log of a function tells of."""
        return self.run("logs", function).stdout.count("START RequestId")


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    broker = Shipped(tmp_path_factory.mktemp("shipped"))
    broker.ship()
    broker.start()
    yield broker
    broker.close()


def test_a_csv_file_in_the_inbox_becomes_rows_and_goes_to_done(shipped):
    shipped.load("weather.csv")
    assert shipped.rows("SELECT city, day, temperature, rain FROM weather ORDER BY city, day") == [
        ("Bergen", "2026-11-22", 5.5, 30),
        ("Oslo", "2026-11-21", -3.5, 0),
        ("Oslo", "2026-11-22", -4, 1.2),
    ]
    assert not (shipped.root / "inbox/weather.csv").exists()


def test_an_image_gets_a_thumbnail(shipped):
    folder = shipped.root / "images/holidays"
    folder.mkdir(parents=True)
    Image.new("RGB", (1200, 800), "navy").save(folder / "fjord.jpg")
    thumbnail = shipped.root / "thumbnails/holidays/fjord.jpg"
    until(thumbnail.exists, within=15, what=shipped.screen.read_text)
    with Image.open(thumbnail) as image:
        assert (image.size, image.format) == ((256, 171), "JPEG")


def test_the_backup_can_be_run_now_and_is_what_it_says(shipped):
    shipped.load()
    done = shipped.run("invoke", "backup")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["archive"] in done.stderr
    with tarfile.open(shipped.root / result["archive"]) as archive:
        contents = {member.name: archive.extractfile(member).read() for member in archive}
    manifest = contents.pop("MANIFEST.sha256").decode().splitlines()
    assert sorted(manifest) == sorted(f"{hashlib.sha256(data).hexdigest()}  {name}" for name, data in contents.items())
    assert contents["inbox/done/november.csv"].decode() == CSV
    copy = shipped.root / "restored.db"
    copy.write_bytes(contents["weather.db"])
    with closing(sqlite3.connect(copy)) as database:
        assert database.execute("SELECT count(*) FROM weather").fetchone() == (3,)


def test_a_signed_webhook_is_answered_and_a_forged_one_is_not(shipped):
    shipped.wait_for_http()
    shipped.load()
    answer = shipped.chat("weather oslo")
    assert (answer.status_code, answer.json()) == (200, {"text": "Oslo, 2026-11-22: -4 °C"})
    before = shipped.account("chatbot").accepted
    assert shipped.chat("weather oslo", secret="whsec_" + "A" * 32).status_code == 401
    assert httpx.post(shipped.url("/chat"), json={"text": "help"}).status_code == 401
    assert shipped.account("chatbot").accepted == before


def test_a_request_is_answered_from_the_database(shipped):
    shipped.wait_for_http()
    shipped.load()
    answer = httpx.get(shipped.url("/weather/OSLO"), timeout=15)
    assert answer.status_code == 200
    assert answer.json() == {"city": "Oslo", "day": "2026-11-22", "temperature": -4, "rain": 1.2, "wind": None}
    assert httpx.get(shipped.url("/weather/Atlantis"), timeout=15).status_code == 404


def test_what_is_pushed_is_counted_a_batch_at_a_time(shipped):
    lines = "".join(f'{{"key": "oven", "value": {number}}}\n' for number in range(250))
    done = shipped.run("push", "measurements", "-", given=lines)
    assert done.returncode == 0, done.stderr
    assert shipped.run("push", "measurements", '{"key": "cellar", "value": 7.5}').returncode == 0
    wanted = [("cellar", 1, 7.5, 7.5, 7.5), ("oven", 250, 31125, 0, 249)]
    until(lambda: shipped.rows("SELECT * FROM measurements ORDER BY key") == wanted, within=15)
    assert shipped.attempts("aggregate") in {3, 4}  # two full ones, and what is left after a second


def test_the_log_of_a_function_shows_start_end_and_report_of_each_attempt(shipped):
    shipped.load()
    done = shipped.run("logs", "load_csv")
    assert done.returncode == 0, done.stderr
    id_ = done.stdout.partition("START RequestId: ")[2].split()[0]
    start, report = f"START RequestId: {id_} Version: $LATEST", f"REPORT RequestId: {id_}\tDuration: "
    for line in (start, "3 rows", f"END RequestId: {id_}", report):
        assert line in done.stdout


def test_ctrl_c_ends_everything_loses_nothing_and_the_next_start_goes_on(tmp_path):
    broker = Shipped(tmp_path)
    broker.ship()
    try:
        broker.start()
        broker.load()
        _push_and_interrupt(broker)
        broker.start()
        broker.all_ended("aggregate", 1_000, within=30)
        assert broker.rows("SELECT key, count, sum FROM measurements") == [("oven", 1_000, 499_500)]
        audit = broker.run("audit")
        assert audit.returncode == 0, audit.stdout + audit.stderr
        broker.load("more.csv", CSV.replace("Oslo", "Molde"))
        assert broker.rows("SELECT count(*) FROM weather") == [(5,)]
        assert broker.interrupt() == 0
        assert broker.processes() == []
    finally:
        broker.close()


def _push_and_interrupt(broker: Broker) -> None:
    """Press Ctrl-C with a thousand messages in the queue, of which a few have been counted."""
    values = (f'{{"key": "oven", "value": {number}}}' for number in range(1_000))
    broker.client.rpush("broker:queue:measurements", *values)
    until(lambda: broker.client.hlen("broker:books:aggregate"), within=10)
    assert broker.interrupt() == 0
    assert broker.processes() == []
