"""Which TLS a URL gets, form by form: the table of docs/security.md."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from dataclasses import asdict, replace

import pytest

from standfast.admin import doctor
from standfast.backends.postgres.backend import PostgresBackend
from standfast.backends.postgres.connection import parameters
from standfast.config.settings import Target, load_settings, may_send_cleartext, parse_url
from standfast.errors import StandfastError

PUBLIC, PRIVATE = "postgresql://u:p@db.example.com/d", "postgresql://u:p@127.0.0.1/d"
#: URL, environment, sslmode (None: libpq's own), whether a password may go in clear text, warned.
TABLE = [
    (PUBLIC, {}, "require", False, False),
    (f"{PUBLIC}?sslrootcert=/ca.pem", {}, "verify-full", True, False),
    (f"{PUBLIC}?sslrootcert=system", {}, "verify-full", True, False),
    (f"{PUBLIC}?sslmode=verify-full", {}, "verify-full", True, False),
    (f"{PUBLIC}?sslmode=require", {}, "require", False, False),
    (f"{PUBLIC}?sslmode=disable", {}, "disable", False, False),
    (f"{PUBLIC}?sslmode=prefer&sslrootcert=/ca.pem", {}, "prefer", False, False),
    (f"{PUBLIC}?require_auth=password", {}, "require", True, False),
    (f"{PUBLIC}?service=x", {}, None, False, False),
    (PUBLIC, {"PGSSLMODE": "disable"}, None, False, True),
    (PUBLIC, {"PGSSLMODE": "prefer"}, None, False, True),
    (PUBLIC, {"PGSSLMODE": "verify-full"}, None, True, False),
    (f"{PUBLIC}?sslmode=require", {"PGSSLMODE": "disable"}, "require", False, False),
    (PUBLIC, {"PGREQUIREAUTH": "password"}, "require", True, False),
    (PRIVATE, {}, None, True, False),
    (PRIVATE, {"PGSSLMODE": "disable"}, None, True, False),
    ("postgresql://u:p@/d?host=/run/pg", {}, None, True, False),
    ("postgresql://u:p@127.0.0.1,db.example.com/d", {}, "require", False, False),
    ("postgresql://u:p@db/d?hostaddr=203.0.113.9", {}, "require", False, False),
]


@pytest.mark.parametrize(("url", "environ", "mode", "cleartext", "warned"), TABLE)
def test_tls_by_the_form_of_the_url(
    url: str,
    environ: dict[str, str],
    mode: str | None,
    cleartext: bool,
    warned: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A5: a public host gets TLS, with a root certificate a verified one; a password goes in clear
    text only to a verified server or within a private network."""
    target = parse_url(url, environ=environ)
    assert target.params.get("sslmode") == mode
    assert may_send_cleartext(target.params, environ) is cleartext
    assert any("PGSSLMODE" in warning for warning in target.warnings) is warned
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    used = parameters(target).get("require_auth")
    assert (used == "!password") is not cleartext


# ---- a server that does not encrypt, or asks for the password as it is


class Listener:
    """Answers the request for TLS with N, then asks for the password in clear text."""

    def __init__(self) -> None:
        self.heard = bytearray()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Listener:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._thread.join(10)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.settimeout(10)
                while found := connection.recv(4096):
                    self.heard += found
                    asks_for_tls = found[4:8] in (b"\x04\xd2\x16\x2f", b"\x04\xd2\x16\x30")
                    connection.sendall(b"N" if asks_for_tls else b"R\0\0\0\x08\0\0\0\x03")


def aimed_at(listener: Listener, url: str) -> Target:
    """What the URL says, at an address of this machine."""
    target = parse_url(url, environ={})
    return replace(
        target, params={**target.params, "hostaddr": "127.0.0.1", "port": str(listener.port)}
    )


@pytest.mark.parametrize(
    ("url", "begins"),
    [
        (PUBLIC, False),
        (f"{PUBLIC}?sslmode=verify-full&sslrootcert=system", False),
        (f"{PUBLIC}?sslmode=require&require_auth=password", False),
        (f"{PUBLIC}?sslmode=prefer&require_auth=!password", True),
    ],
)
def test_a_server_that_does_not_encrypt_gets_no_password(url: str, begins: bool) -> None:
    """A5: a server that answers N to TLS, and asks for the password as it is, does not get it:
    where TLS is required it does not even get the name of the user."""
    with Listener() as listener:
        backend = PostgresBackend(aimed_at(listener, url.replace("u:p@", "someone:canary-77aa@")))
        with pytest.raises(StandfastError) as caught:
            backend.new_handle().connect(time.monotonic() + 10)
        backend.close()
        assert b"canary-77aa" not in listener.heard
        assert (b"someone" in listener.heard) is begins
    assert caught.value.code in ("tls", "auth", "connection")
    assert "canary-77aa" not in str(caught.value) + caught.value.hint


def test_the_password_goes_where_it_may() -> None:
    """The server of these tests would get it: on this machine it is sent when it is asked for."""
    with Listener() as listener:
        backend = PostgresBackend(aimed_at(listener, PRIVATE.replace("u:p@", "u:canary-77aa@")))
        with pytest.raises(StandfastError):
            backend.new_handle().connect(time.monotonic() + 1)
        backend.close()
        assert b"canary-77aa" in listener.heard


@pytest.mark.parametrize(
    ("url", "encrypted", "verdict", "words"),
    [
        (f"{PUBLIC}?sslrootcert=system", True, "ok", "certificate is checked (verify-full)"),
        (PUBLIC, True, "warn", "not verified (sslmode require, a public host)"),
        (f"{PUBLIC}?sslmode=prefer", False, "warn", "not encrypted (sslmode prefer, a public"),
        (PRIVATE, False, "ok", "not encrypted (sslmode prefer, a private host)"),
        (PRIVATE, True, "ok", "encrypted (sslmode prefer, a private host)"),
    ],
)
def test_doctor_says_how_the_connection_is_protected(
    url: str, encrypted: bool, verdict: str, words: str
) -> None:
    """A5: doctor shows the mode, whether it is encrypted, and whether the server was verified."""
    check = doctor.tls(load_settings(url, environ={}), encrypted=encrypted)
    assert check.verdict == verdict
    assert words in check.found
    assert bool(check.hint) is (verdict != "ok")


def test_settings_in_a_report_show_no_secret() -> None:
    """A14: what a tool that reports crashes makes of the settings and of the target."""
    url = "postgresql://u:canary-77aa@h/d?sslpassword=canary-77bb"
    settings = load_settings(url, environ={})
    for shown in (
        asdict(settings),
        asdict(settings.target),
        settings.target.params,
        [settings.url],
    ):
        assert "canary" not in f"{shown} {shown!r}"
    assert settings.target.params["password"] == "canary-77aa"
