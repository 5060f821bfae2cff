"""Which TLS a URL gets, form by form: the table of docs/security.md."""

from __future__ import annotations

import pytest

from standfast.backends.postgres.connection import parameters
from standfast.config.settings import may_send_cleartext, parse_url

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
