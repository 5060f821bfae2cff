"""Passwords of test roles as a server stores them, cheap to check.

A password that a server hashes costs every client that logs in 4,096 rounds of SHA-256, which is
more than all the rest of a connection; here it is one round.

Source: PostgreSQL documentation, 53.7, "pg_authid", `rolpassword`; RFC 5802, 3.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from base64 import b64encode

_ROUNDS = 1


def quick_verifier(password: str) -> str:
    """What `PASSWORD` takes in place of a password: it is stored as it is.

    The password must be its own SASLprep form: no compatibility characters.
    """
    salt = secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, _ROUNDS)
    client = hashlib.sha256(_sign(salted, b"Client Key")).digest()
    parts = (client, _sign(salted, b"Server Key"))
    stored, server = (b64encode(part).decode() for part in parts)
    return f"SCRAM-SHA-256${_ROUNDS}:{b64encode(salt).decode()}${stored}:{server}"


def _sign(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")
