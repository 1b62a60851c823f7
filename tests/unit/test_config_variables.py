"""config.load: `${VAR}` is filled in from the environment, and what it holds is never told."""

from __future__ import annotations

import pytest

from broker.config import load
from broker.errors import ConfigError

SOURCE = """
import msgspec

from broker.quantity import Size
from broker.source import Source


class Login(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    user: str


class Mail(Source, frozen=True, kw_only=True, forbid_unknown_fields=True):
    host: str
    port: int = 993
    only: list[str] = []
    limits: dict[str, Size] = {}
    login: Login | None = None

    def check(self, root):
        if self.port == 1:
            raise RuntimeError(f"cannot look up {self.host}")
        return [f"host: {self.host!r} is not to be had"] if self.host.startswith("bad") else []

    def claims(self, root):
        return [f"mailbox {self.host}"]
"""

THUMBNAIL = '[functions.thumbnail]\nhandler = "handlers/thumbnail.py:handler"\n'
MAIL = '[sources.mail]\nkind = "./mail.py:Mail"\nhost = "example.org"\n'


@pytest.fixture
def project(tmp_path):
    (tmp_path / "handlers").mkdir()
    (tmp_path / "handlers" / "thumbnail.py").write_text("def handler(event, context): ...")
    (tmp_path / "mail.py").write_text(SOURCE)
    return tmp_path


@pytest.fixture
def read(project):
    """Load a configuration of this text; `environ` is all that its variables can come from."""

    def read(text, **environ):
        (project / "config.toml").write_text(text)
        return load(project / "config.toml", environ)

    return read


@pytest.fixture
def mistakes(read):
    """Return the mistakes of a configuration of this text, as `place: problem (hint)`."""

    def mistakes(text, **environ):
        with pytest.raises(ConfigError) as caught:
            read(text, **environ)
        return [str(mistake).partition(": ")[2] for mistake in caught.value.mistakes]

    return mistakes


def test_variables_come_from_the_environment_and_then_from_dotenv(read, project):
    (project / ".env").write_text('ONE=file\nTWO="fi${ONE}le"\n# comment\nEMPTY=\nTHREE\n')
    text = THUMBNAIL + 'variables = { A = "<${ONE}>", B = "${TWO}", C = "$${ONE} $ONE $", D = "${EMPTY}" }'
    assert read(text, ONE="env").functions["thumbnail"].variables == {
        "A": "<env>",
        "B": "fi${ONE}le",
        "C": "${ONE} $ONE $",
        "D": "",
    }


def test_a_variable_can_give_any_value(read):
    config = read(
        '[broker]\nworkers = "${N}"\ngrace = "${N}s"\n' + MAIL + 'limits = { "${N}" = "${SIZE}" }\nonly = ["${N}"]',
        N="3",
        SIZE="2KB",
    )
    assert (config.settings.workers, config.settings.grace) == (3, 3)
    assert config.sources["mail"].limits == {"${N}": 2048}
    assert config.sources["mail"].only == ["3"]


def test_the_process_environment_is_the_default(project, monkeypatch):
    (project / "config.toml").write_text('[broker]\ndata = "${WHERE_TO_KEEP_IT}"')
    monkeypatch.setenv("WHERE_TO_KEEP_IT", "there")
    assert load(project / "config.toml").data == project / "there"


def test_every_missing_variable_is_named_with_its_place(mistakes):
    how = "set it in the environment, or in .env beside the file"
    assert mistakes('[broker]\nredis = "redis://:${PASSWRD}@${HOST}"\ndata = "${a-b}"', PASSWORD="x") == [
        'broker.redis: the environment variable PASSWRD is not set (did you mean "PASSWORD"?)',
        f"broker.redis: the environment variable HOST is not set ({how})",
        "broker.data: expected ${NAME} after ${ (write $${ for a plain ${)",
    ]


@pytest.mark.parametrize(
    "text",
    [
        '[broker]\nworkers = "${X}"',
        '[broker]\nredis = "${X}"',
        '[functions.x]\nhandler = "${X}.py:handler"',
        '[sources.x]\nkind = "${X}"',
        MAIL + 'only = ["${X}"]',
        MAIL + 'login = { user = "${X}" }',
        THUMBNAIL + MAIL + '[[triggers]]\nsource = "${X}"\nfunction = "thumbnail"',
        THUMBNAIL
        + MAIL
        + '[[triggers]]\nsource = "mail"\nfunction = "thumbnail"\npattern = { a = [{ cidr = "${X}" }] }',
    ],
)
def test_a_missing_variable_is_all_that_is_said_about_its_place(mistakes, text):
    (mistake,) = mistakes(text)
    assert "the environment variable X is not set" in mistake


@pytest.mark.parametrize(
    "text",
    [
        '[broker]\nworkers = "${SECRET}"',
        '[broker]\ngrace = "${SECRET}"',
        '[broker]\nfsync = "${SECRET}"',
        '[broker]\nredis = "${SECRET}://x"',
        '[broker]\nredis = "x${SECRET}"',
        THUMBNAIL + 'on_success = "${SECRET}"',
        '[functions.x]\nhandler = "${SECRET}.py:handler"',
        '[functions.x]\nhandler = "${SECRET}"',
        THUMBNAIL + 'retry = { base = "${LONG}", max = "1s" }',
        THUMBNAIL + 'timeout = "${ZERO}"',
        MAIL.replace("example.org", "bad${SECRET}"),
        MAIL.replace("example.org", "${SECRET}") + "port = 1",
        MAIL.replace("example.org", "${SECRET}") + MAIL.replace("mail]", "post]").replace("example.org", "${SECRET}"),
        MAIL + 'login = "${SECRET}"',
        '[sources.x]\nkind = "${SECRET}"',
        '[sources.x]\nkind = "./${SECRET}.py:X"',
        THUMBNAIL + MAIL + '[[triggers]]\nsource = "${SECRET}"\nfunction = "${SECRET}"',
        THUMBNAIL + MAIL + '[[triggers]]\nsource = "mail"\nfunction = "thumbnail"\npattern = { a = "${SECRET}" }',
        THUMBNAIL + MAIL + "[[triggers]]\nsource = 'mail'\nfunction = 'thumbnail'\n"
        "pattern = { a = [{ wildcard = '**${SECRET}' }] }",
    ],
)
@pytest.mark.parametrize("secret", ["open-sesame", 'o\'pen "sesame" \\ ' + "x" * 80])
def test_a_secret_is_never_part_of_a_message(mistakes, text, secret):
    said = "\n".join(mistakes(text, SECRET=secret, LONG="123s", ZERO="0.0001s"))
    assert said
    for form in (secret, repr(secret)[1:-1], "sesame", "123", "0.0001", "0.1ms"):
        assert form not in said
