"""The functions around the table of weather: load_csv fills it, weather and chatbot read it."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handlers import chatbot, database, load_csv, weather

GOOD = "city,day,temperature,rain\nOslo,2026-11-22,-3.5,0\nOslo,2026-11-23,-1,2.5\nRome,2026-11-23,14,\n"


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """Functions run in the project's folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "inbox").mkdir()
    return tmp_path


def load(text, name="a.csv", encoding="utf-8"):
    path = load_csv.INBOX / name
    path.write_bytes(text.encode(encoding) if isinstance(text, str) else text)
    return load_csv.handler({"type": "file.created", "data": {"path": str(path.absolute())}}, None)


def rows():
    with database.reading() as connection:
        return [tuple(row) for row in connection.execute("SELECT * FROM weather ORDER BY city, day")]


def get(city, **query):
    response = weather.handler({"data": {"parameters": {"city": city}, "query": query}}, None)
    return response["statusCode"], json.loads(response["body"])


def say(body):
    response = chatbot.handler({"data": {"body": body}}, None)
    return json.loads(response["body"]).get("text") if response["statusCode"] == 200 else response["statusCode"]


def test_a_csv_file_is_loaded(project):
    assert load(GOOD) == {"file": "a.csv", "rows": 3, "bad": 0, "problems": [], "ignored": []}
    assert rows() == [
        ("Oslo", "2026-11-22", -3.5, 0, None),
        ("Oslo", "2026-11-23", -1, 2.5, None),
        ("Rome", "2026-11-23", 14, None, None),
    ]
    assert (project / "data/weather.db").is_file()


def test_the_same_file_twice_changes_nothing_and_a_newer_one_overwrites():
    load(GOOD)
    before = rows()
    load(GOOD)
    assert rows() == before
    load("city,day,temperature\noslo,2026-11-23,5\n")
    assert ("oslo", "2026-11-23", 5, None, None) in rows() and len(rows()) == len(before)


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_the_delimiter_is_found_and_numbers_may_have_a_decimal_comma(delimiter):
    load(delimiter.join(["Station", "Temperature", "DAY", " City "]) + "\r\n" + delimiter.join(
        ["7, north", "-3,5", "20261123", '"Ørsta, Møre"']) + "\r\n", encoding="utf-8-sig")  # fmt: skip
    assert rows() == [("Ørsta, Møre", "2026-11-23", -3.5, None, None)]


def test_columns_that_are_not_known_are_ignored_and_told():
    assert load("city,day,temperature,station\nOslo,2026-11-23,1,7\n")["ignored"] == ["station"]


def test_bad_rows_are_counted_and_told_and_do_not_keep_the_good_ones(capsys):
    bad = ["Oslo,2026-11-31,1", ",2026-11-23,1", "Oslo,2026-11-23,warm", "Oslo,2026-11-23", "Oslo,2026-11-23,1,2"]
    more = ["Oslo,2026-11-23,nan", "Oslo,2026-11-23,1_000", "Oslo,2026-11-23,", "Oslo,2026-11-23,1e999"]
    result = load("\n".join(["city,day,temperature", *bad, "", "Rome,2026-11-23,14", *more]))
    assert (result["rows"], result["bad"]) == (1, 9)
    assert [problem.split(":")[0] for problem in result["problems"]] == [f"line {n}" for n in range(2, 7)]
    assert result["problems"][2] == "line 4: temperature: expected a number, got 'warm'"
    assert "1 rows loaded, 9 bad" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no column city, day, temperature"),
        ("city,day\nOslo,2026-11-23\n", "no column temperature"),
        ("city,day,temperature,day\nOslo,2026-11-23,1,2\n", "names day twice"),
        ("city,day,temperature\nOslo,today,1\n", "no good row; line 2: Invalid isoformat"),
        (b"city,day,temperature\nOslo,2026-11-23,1\n\xff\xff", "codec can't decode"),
    ],
)
def test_a_file_that_is_no_such_table_fails_and_leaves_nothing(text, says):
    with pytest.raises(ValueError, match=says):
        load(text)
    assert rows() == []


def test_a_header_alone_is_an_empty_table():
    assert load("city,day,temperature\n")["rows"] == 0


def test_a_path_outside_the_inbox_is_refused(project):
    (project / "secret.csv").write_text(GOOD)
    (project / "inbox/link.csv").symlink_to(project / "secret.csv")
    for path in ("secret.csv", "inbox/../secret.csv", "inbox/link.csv", "/etc/passwd", "inboxes/a.csv"):
        with pytest.raises(PermissionError, match="is not in inbox"):
            load_csv.handler({"data": {"path": path}}, None)


def test_two_files_are_loaded_at_the_same_time(project):
    errors = []

    def run(n):
        try:
            load("city,day,temperature\n" + "".join(f"c{n}-{i},2026-11-23,1\n" for i in range(500)), f"{n}.csv")
        except Exception as error:  # noqa: BLE001 -- told to the test
            errors.append(error)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == [] and len(rows()) == 2000


@given(
    table=st.lists(
        st.tuples(
            st.text(st.characters(exclude_categories=("Cs", "Cc", "Z")), min_size=1, max_size=9),
            st.dates(),
            st.floats(-90, 60),
        ),
        min_size=1,
        max_size=5,
    )
)
@settings(max_examples=50)
def test_what_a_csv_writer_writes_comes_out_of_the_database(table):
    text = io.StringIO()
    csv.writer(text).writerows([("city", "day", "temperature"), *table])
    load(text.getvalue())
    loaded = {(city, day): temperature for city, day, temperature, *_ in rows()}
    city, day, temperature = table[-1]
    assert loaded[(city, day.isoformat())] == temperature


def test_weather_answers_with_the_last_day_or_the_one_asked_for():
    load(GOOD)
    last = {"city": "Oslo", "day": "2026-11-23", "temperature": -1, "rain": 2.5, "wind": None}
    assert get("Oslo") == (200, last)
    assert get("oslo", day="2026-11-22")[1]["temperature"] == -3.5


def test_weather_of_an_unknown_city_is_404_also_before_anything_was_loaded():
    assert get("Atlantis")[0] == 404
    load(GOOD)
    assert get("Oslo", day="2020-01-01") == (404, {"message": "no weather is known for Oslo on 2020-01-01"})
    assert get("x' OR '1'='1")[0] == 404
    assert get("Osl_")[0] == get("%")[0] == 404


@pytest.mark.parametrize("day", ["", "yesterday", "20261123", ["2026-11-22", "2026-11-23"]])
def test_weather_of_what_is_no_day_is_400(day):
    assert get("Oslo", day=day)[0] == 400


def test_the_chat_bot_answers():
    load(GOOD)
    assert say({"text": "weather Rome"}) == "Rome, 2026-11-23: 14 °C"
    assert say({"text": "  WEATHER   oslo "}) == "Oslo, 2026-11-23: -1 °C"
    assert say({"text": "weather <!channel>"}) == "I know no weather of that city."
    assert say({"text": "time"}).endswith(" UTC.")
    for other in ("help", "", "weather", "rm -rf"):
        assert say({"text": other}) == chatbot.HELP


def test_the_chat_bot_reads_what_webhooks_and_slash_commands_send():
    load(GOOD)
    assert say({"type": "message", "data": {"text": "weather Rome"}}) == "Rome, 2026-11-23: 14 °C"
    assert say("user_name=ann&text=weather+Rome") == "Rome, 2026-11-23: 14 °C"


@pytest.mark.parametrize("body", [None, "", 5, [], {}, {"text": 5}, {"data": []}, "a=b"])
def test_the_chat_bot_refuses_what_says_nothing(body):
    assert say(body) == 400


def test_what_fails_in_the_middle_leaves_nothing_written():
    insert = "INSERT INTO weather (city, day, temperature) VALUES ('Oslo', ?, ?)"
    with pytest.raises(sqlite3.IntegrityError), database.writing() as connection:
        connection.executemany(insert, [("2026-11-23", 1), ("2026-11-24", None)])
    assert rows() == []
