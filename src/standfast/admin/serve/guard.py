"""Who may ask what: hosts, origins, the token, sizes.  Decides from the request alone.

Without a token, only this machine may look, and nobody sees contents or decides anything.  A page
of another site cannot make a browser ask: its `Origin` is refused, and so is a name that its owner
points at 127.0.0.1 (DNS rebinding), as a `Host` that is not ours.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.requests import Request

COOKIE = "standfast"
MIN_TOKEN_CHARS = 16
MAX_URL_CHARS = 2000
MAX_BODY_BYTES = 16 * 1024
MAX_HEAD_BYTES = 16 * 1024
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


@dataclass(frozen=True, slots=True)
class Refused:
    """The answer to a request that is not served."""

    status: int
    why: str


class Guard:
    """The rules of one app."""

    def __init__(self, token: str | None, hosts: Iterable[str]) -> None:
        self._token = token
        self._hosts = _LOOPBACK | {host.lower() for host in hosts}

    @property
    def session(self) -> str:
        """The value of the cookie of who has given the token."""
        key = (self._token or "").encode()
        return hmac.new(key, b"standfast session", hashlib.sha256).hexdigest()

    def refuse(self, request: Request) -> Refused | None:
        """Why a request is not looked at at all."""
        if len(str(request.url)) > MAX_URL_CHARS:
            return Refused(414, "the address is too long")
        if sum(len(name) + len(value) for name, value in request.headers.raw) > MAX_HEAD_BYTES:
            return Refused(431, "the head of the request is too large")
        host = _name_of(request.headers.get("host", ""))
        if host not in self._hosts:
            return Refused(400, "this server does not answer under that name")
        origin = request.headers.get("origin")
        if origin not in (None, f"{request.url.scheme}://{request.headers.get('host', '')}"):
            return Refused(403, "a page of another site may not ask here")
        if request.headers.get("sec-fetch-site") == "cross-site" and request.method != "GET":
            return Refused(403, "a page of another site may not ask here")
        length = request.headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit():
            return Refused(400, "the length of the body is not a number")
        if int(length) > MAX_BODY_BYTES:
            return Refused(413, "the body is too large")
        if request.method == "POST" and "content-length" not in request.headers:
            return Refused(411, "the length of the body is missing")
        return None

    def may_look(self, request: Request) -> bool:
        """Whether it may see how the store is doing: from this machine, or with the token."""
        return self.has_token(request) or self._is_here(request)

    def _is_here(self, request: Request) -> bool:
        client = request.client.host if request.client else ""
        forwarded = {"forwarded", "x-forwarded-for", "x-real-ip"} & set(request.headers.keys())
        host = _name_of(request.headers.get("host", ""))
        return _is_loopback(client) and host in _LOOPBACK and not forwarded

    def has_token(self, request: Request) -> bool:
        """Whether it has the token: as `Authorization: Bearer`, or as the cookie of a session."""
        if not self._token:
            return False
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and self.is_token(given.strip()):
            return True
        return _equal(_cookie(request), self.session)

    def is_token(self, given: str) -> bool:
        """Whether this is the token."""
        return bool(self._token) and _equal(given, self._token or "")

    def may_post(self, request: Request) -> bool:
        """Whether a form of ours sent it, or a program that has the token as a header."""
        if request.headers.get("origin") is not None:
            return True  # looked at in `refuse`
        bearer = request.headers.get("authorization", "").lower().startswith("bearer ")
        return bearer or request.headers.get("sec-fetch-site") == "same-origin"


def _equal(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), wanted.encode())


def _cookie(request: Request) -> str:
    try:
        found = SimpleCookie(request.headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found is not None else ""


def _name_of(host: str) -> str:
    """A `Host` without its port, in lower case; empty when it is malformed."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower() if "@" not in host else ""
    except ValueError:
        return ""


def _is_loopback(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False


def is_loopback_host(host: str) -> bool:
    """Whether a server that binds to this name is reached from this machine alone."""
    return host.lower() in _LOOPBACK or (host[:4] == "127." and _is_loopback(host))
