"""Packing: what goes into the zip, how it is run, and what is said when that cannot be told."""

from __future__ import annotations

import secrets
import zipfile

import pytest

from broker.deployed import packing
from broker.errors import DeployFailed

HELLO = "def handler(event, context):\n    return 1\n"


@pytest.fixture
def packed(tmp_path):
    """Pack what `files` describes, alone or as a folder; the names in the zip are in `names`."""
    count = 0

    def pack(files, only=""):
        nonlocal count
        count += 1
        folder, work = tmp_path / f"in{count}", tmp_path / f"work{count}"
        work.mkdir()
        for name, text in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            if text.startswith("#!"):
                path.chmod(0o755)
        return packing.pack(folder / only, work)

    return pack


def names(one):
    with zipfile.ZipFile(one.zip) as archive:
        return set(archive.namelist())


def test_caches_secrets_and_what_is_ignored_stay_behind(packed):
    one = packed(
        {
            "main.py": HELLO, "lib/x.py": "", "node_modules/a/index.js": "", "data/keep.txt": "",
            ".git/config": "", "__pycache__/main.pyc": "", "lib/__pycache__/x.pyc": "", ".venv/bin/python": "",
            ".env": "SECRET=1", ".broker/redis.log": "", "notes.md": "", "data/big.bin": "", "tests/t.py": "",
            ".brokerignore": "# a comment\n*.md\n/data/*.bin\ntests/\n",
        }
    )  # fmt: skip
    assert names(one) == {"main.py", "lib/x.py", "node_modules/a/index.js", "data/keep.txt"}


def test_equal_files_have_one_hash_wherever_they_lie(packed):
    files = {"main.py": HELLO, "b.txt": "b"}
    assert packed(files).digest == packed(dict(reversed(files.items()))).digest
    assert packed(files).digest != packed({**files, "b.txt": "c"}).digest


@pytest.mark.parametrize(
    ("files", "only", "expected"),
    [
        ({"hello.py": HELLO}, "hello.py", ("python", "hello.py:handler")),
        ({"hello.py": "lambda_handler = print"}, "hello.py", ("python", "hello.py:lambda_handler")),
        ({"hello.py": "from lib import handler"}, "hello.py", ("python", "hello.py:handler")),
        ({"index.mjs": "export const handler = async () => 1"}, "index.mjs", ("nodejs", "index.mjs:handler")),
        ({"index.js": "exports.handler = async () => 1"}, "index.js", ("nodejs", "index.js:handler")),
        ({"run.sh": "#!/bin/sh\n"}, "run.sh", ("exec", "./run.sh")),
        ({"tool": "#!/bin/sh\n"}, "tool", ("exec", "./tool")),
        ({"main.py": HELLO, "other.py": HELLO}, "", ("python", "main.py:handler")),
        ({"only.py": HELLO, "data.csv": ""}, "", ("python", "only.py:handler")),
    ],
)
def test_runtime_and_handler_are_guessed(packed, files, only, expected):
    assert packing.guess(packed(files, only), None, None) == expected


@pytest.mark.parametrize(
    ("files", "runtime", "handler", "said"),
    [
        ({"a.py": "def run(e, c): ..."}, None, None, "a.py has no function `handler`; it defines run"),
        ({"a.py": "def run(e, c): ..."}, None, "a.py:rum", 'did you mean "run"'),
        ({"a.py": "def (:"}, None, None, "a.py, line 1: "),
        ({"a.py": HELLO, "b.py": HELLO}, None, None, "cannot tell which file"),
        ({"a.py": HELLO}, None, "b.py:handler", "there is no file b.py in what is deployed"),
        ({"a.py": HELLO}, "pythn", None, "no runtime 'pythn'; did you mean \"python\"?"),
        ({"data.csv": "1"}, None, None, "cannot tell"),
        ({"run.sh": "echo 1"}, None, None, "may not be executed"),
        ({".env": "x"}, None, None, "nothing to deploy"),
    ],
)
def test_what_cannot_be_run_is_refused_in_a_sentence(packed, files, runtime, handler, said):
    with pytest.raises(DeployFailed) as raised:
        packing.guess(packed(files), runtime, handler)
    assert said in str(raised.value)


def test_a_zip_for_aws_is_taken_as_it_is(tmp_path, packed):
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        archive.writestr("lambda_function.py", "def lambda_handler(event, context): ...")
    (tmp_path / "work").mkdir()
    one = packing.pack(tmp_path / "in.zip", tmp_path / "work")
    assert packing.guess(one, None, None) == ("python", "lambda_function.py:lambda_handler")


def test_sixty_megabytes_are_refused(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/main.py").write_text(HELLO)
    (tmp_path / "in/noise.bin").write_bytes(secrets.token_bytes(60 << 20))
    (tmp_path / "work").mkdir()
    with pytest.raises(DeployFailed, match=r"60\.0MB as a zip; at most 50\.0MB"):
        packing.pack(tmp_path / "in", tmp_path / "work")


@pytest.mark.parametrize(
    ("name", "expected"), [("hello.py", "hello"), ("my func.v2.zip", "my-func"), ("…", "function")]
)
def test_a_name_is_made_of_the_files(tmp_path, name, expected):
    assert packing.name_of(tmp_path / name) == expected
