"""The ASGI app: probes, metrics, the status as JSON, and the page with its decisions."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable
from importlib.resources import files
from pathlib import Path
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from standfast.admin.backup.schedule import Schedule
from standfast.admin.conflicts import Decision, Side, find, resolve, version_now
from standfast.admin.serve import page
from standfast.admin.serve.guard import COOKIE, MAX_BODY_BYTES, MIN_TOKEN_CHARS, Guard, Refused
from standfast.admin.serve.metrics import render
from standfast.admin.serve.watcher import Snapshot, Watcher, on_database
from standfast.admin.status import Status
from standfast.backends.base import Backend
from standfast.config.settings import Settings, load_settings
from standfast.errors import ConfigError, StandfastError
from standfast.system.disks import is_writable

Handler = Callable[[Request], Awaitable[Response]]

#: How long the first request waits for the first look at the files.
FIRST_LOOK_S = 2.0
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self';"
    " connect-src 'self'; img-src 'self' data:; form-action 'self'; base-uri 'none';"
    " frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_STATIC = {"style.css": "text/css", "page.js": "text/javascript"}
_SIDES: tuple[Side, ...] = ("mine", "theirs", "base")


class StatusApp:
    """An ASGI app that shows how a store is doing; see `create_app`."""

    def __init__(
        self,
        settings: Settings,
        *,
        token: str | None,
        hosts: Iterable[str],
        backups: Schedule | None = None,
    ) -> None:
        self._guard = Guard(token, hosts)
        self._watcher = Watcher(settings, backups)
        self._settings = settings
        get, both = ["GET"], ["GET", "POST"]
        self._app = Starlette(
            routes=[
                Route("/", self._guarded(self._page), methods=get),
                Route("/livez", self._guarded(self._livez), methods=get),
                Route("/readyz", self._guarded(self._readyz), methods=get),
                Route("/metrics", self._guarded(self._metrics), methods=get),
                Route("/status.json", self._guarded(self._status), methods=get),
                Route("/style.css", self._guarded(self._static), methods=get),
                Route("/page.js", self._guarded(self._static), methods=get),
                Route("/login", self._guarded(self._login, anyone=True), methods=both),
                Route("/conflicts/{number:int}", self._guarded(self._conflict), methods=both),
            ]
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; the first starts the threads that look."""
        if scope["type"] == "http":
            self._watcher.start()
        await self._app(scope, receive, send)

    def start(self) -> None:
        """Start looking before the first request."""
        self._watcher.start()

    def close(self) -> None:
        """Let the threads end."""
        self._watcher.close()

    def _guarded(self, handler: Handler, *, anyone: bool = False) -> Handler:
        async def guarded(request: Request) -> Response:
            refused = self._guard.refuse(request)
            if refused is None and not anyone and not self._guard.may_look(request):
                if "text/html" in request.headers.get("accept", ""):
                    response = self._html(page.login(page.root(request), 401), 401)
                    return _with_headers(response)
                refused = Refused(401, "give the token: Authorization: Bearer ...")
            if refused is not None:
                return _with_headers(_plain(refused))
            return _with_headers(await handler(request))

        return guarded

    # ---- probes

    async def _livez(self, _: Request) -> Response:
        """200 while this process looks at the store; a database that hangs does not matter."""
        live = self._watcher.is_live
        return PlainTextResponse(
            "live\n" if live else "the store is not being looked at\n", 200 if live else 503
        )

    async def _readyz(self, _: Request) -> Response:
        """200 while what an app writes is safe: on the primary, or in the journal."""
        await self._first_look()
        why = not_ready(self._watcher.snapshot)
        return PlainTextResponse(f"{why or 'ready'}\n", 503 if why else 200)

    async def _first_look(self) -> Snapshot:
        if self._watcher.snapshot.evidence is None:
            await asyncio.to_thread(self._watcher.wait, FIRST_LOOK_S)
        return self._watcher.snapshot

    async def _metrics(self, _: Request) -> Response:
        snapshot = await self._first_look()
        text = render(snapshot)
        return Response(text, media_type="text/plain; version=1.0.0; charset=utf-8")

    async def _status(self, _: Request) -> Response:
        import msgspec

        snapshot = await self._first_look()
        if snapshot.status is None:
            error = snapshot.error
            about = (
                {"code": error.code, "message": error.message, "hint": error.hint} if error else {}
            )
            return JSONResponse({"error": about}, 503)
        return Response(msgspec.json.encode(snapshot.status), media_type="application/json")

    # ---- the page

    async def _page(self, request: Request) -> Response:
        snapshot = await self._first_look()
        knows = self._guard.has_token(request)
        return self._html(page.status(snapshot, root=page.root(request), may_decide=knows))

    def _html(self, text: str, status: int = 200) -> Response:
        return Response(text, status, media_type="text/html; charset=utf-8")

    async def _static(self, request: Request) -> Response:
        name = request.url.path.rsplit("/", 1)[-1]
        data = files("standfast.admin.serve").joinpath("static", name).read_bytes()
        return Response(data, media_type=f"{_STATIC[name]}; charset=utf-8")

    async def _login(self, request: Request) -> Response:
        root = page.root(request)
        if request.method == "GET":
            return self._html(page.login(root, 200))
        if not self._guard.may_post(request):
            return _plain(Refused(403, "this needs the form of this page"))
        form = await _form(request)
        if isinstance(form, Refused):
            return _plain(form)
        if not self._guard.is_token(form.get("token", "")):
            return self._html(page.login(root, 403), 403)
        response = RedirectResponse(f"{root}/", 303)
        secure = request.url.scheme == "https"
        response.set_cookie(
            COOKIE,
            self._guard.session,
            path=f"{root}/",
            httponly=True,
            samesite="strict",
            secure=secure,
        )
        return response

    async def _conflict(self, request: Request) -> Response:
        root, number = page.root(request), int(request.path_params["number"])
        if not self._guard.has_token(request):
            return self._html(page.login(root, 401), 401)
        if not 0 < number < 2**63:
            return _plain(Refused(404, "there is no such conflict"))
        try:
            if request.method == "POST":
                return await self._decide(request, root, number)
            deadline_s = self._settings.deadline_s

            def read(backend: Backend) -> object:
                entry = find(backend, number, deadline_s=deadline_s)
                return entry, version_now(backend, entry, deadline_s=deadline_s)

            found = await asyncio.to_thread(on_database, self._settings, read)
            return self._html(page.conflict(found, root=root))
        except StandfastError as error:
            return self._html(page.problem(error, root=root), _status_of(error))

    async def _decide(self, request: Request, root: str, number: int) -> Response:
        if not self._guard.may_post(request):
            return _plain(Refused(403, "this needs the form of this page"))
        form = await _form(request)
        if isinstance(form, Refused):
            return _plain(form)
        decision, version = _decision(form), form.get("version", "")
        if decision is None or not (version.isascii() and version.isdigit() and len(version) < 19):
            return _plain(Refused(400, "this is not a decision"))
        condition = int(version) if decision.take is not None else None
        deadline_s = self._settings.deadline_s

        def decide(backend: Backend) -> object:
            return resolve(backend, number, decision, if_version=condition, deadline_s=deadline_s)

        await asyncio.to_thread(on_database, self._settings, decide)
        self._watcher.refresh()
        return RedirectResponse(f"{root}/?resolved={number}#conflicts", 303)


def create_app(
    url: str | None = None,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    token: str | None = None,
    hosts: Iterable[str] = (),
    backups: Schedule | None = None,
) -> StatusApp:
    """The status of a store as an ASGI app, to be served or mounted in an app of your own.

    `url` and `data_dir` are those of `standfast.open`.  `token`: what must be given from anywhere
    but this machine, and for contents and decisions; at least 16 characters.  `hosts`: names under
    which it answers, beside those of this machine.  `backups`: a schedule
    (`standfast.admin.backup.schedule.Schedule`) by which backups are made.  ConfigError for a token
    that is too short.
    """
    if token is not None and len(token) < MIN_TOKEN_CHARS:
        raise ConfigError(
            f"the token has {len(token)} characters",
            code="usage",
            hint=f"give at least {MIN_TOKEN_CHARS}, at random: openssl rand -hex 16",
        )
    settings = load_settings(url, data_dir=data_dir)
    return StatusApp(settings, token=token, hosts=hosts, backups=backups)


def not_ready(snapshot: Snapshot) -> str:
    """Why an app would lose what it writes now, or have it refused; empty when it would not."""
    status = snapshot.status
    if status is None:
        return snapshot.error.message if snapshot.error else "not looked at yet"
    if status.code is None and status.state not in ("unknown",):
        return ""
    return _journal_trouble(status)


def _journal_trouble(status: Status) -> str:
    if status.kind == "sqlite":
        return "the embedded database cannot be used"
    if status.state == "unknown":
        return "the local files cannot be used"
    disk = status.disk
    if disk is not None and status.lag_ops >= disk.max_journal_ops:
        return "the journal is full"
    if disk is not None and disk.free < 1024 * 1024:
        return "the disk of the journal is full"
    return "" if is_writable(Path(status.data_dir)) else "the journal cannot be written"


def _decision(form: dict[str, str]) -> Decision | None:
    take = form.get("take")
    for side in _SIDES:
        if take == side:
            return Decision(side)
    return Decision() if take == "dismiss" else None


async def _form(request: Request) -> dict[str, str] | Refused:
    """The fields of a small form."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        return Refused(415, "this is not a form")
    body = b""
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                return Refused(413, "the body is too large")
        found = parse_qs(body.decode(), strict_parsing=bool(body), max_num_fields=20)
    except (ValueError, ClientDisconnect):
        return Refused(400, "the form cannot be read")
    return {name: values[-1] for name, values in found.items()}


def _plain(refused: Refused) -> Response:
    return PlainTextResponse(f"{refused.why}\n", refused.status)


def _with_headers(response: Response) -> Response:
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    return response


def _status_of(error: StandfastError) -> int:
    if error.code == "no_entry":
        return 404
    return 409 if error.code in ("not_open", "conflict", "no_base") else 503
