"""`serve`."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import click

from standfast.cli.common import Decision, common_options, library_warnings, retention_options
from standfast.cli.output import Exit, note, shown
from standfast.config.settings import Settings
from standfast.errors import ConfigError

#: Requests that are served at a time; beyond, they are answered with 503.
MAX_CONNECTIONS = 200
#: Bytes of a request's head.
MAX_HEAD_BYTES = 16 * 1024


@click.command("serve")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8377,
    show_default=True,
    help="On which port; 0: any that is free.",
)
@click.option(
    "--token-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A file with the token.  Or give it as STANDFAST_TOKEN.",
)
@click.option(
    "--allow-host",
    "hosts",
    multiple=True,
    metavar="NAME",
    help="Answer under this name, too: that of a reverse proxy.",
)
@click.option(
    "--backup-every",
    type=click.FloatRange(min=0.25, max=8784),
    metavar="HOURS",
    cls=Decision,
    help="Make a backup every so many hours, verify it, and remove old ones.",
)
@retention_options
@common_options("--url")
def serve_command(
    host: str,
    port: int,
    token_file: Path | None,
    hosts: tuple[str, ...],
    backup_every: float | None,
    keep_last: int,
    keep_daily: int,
    keep_weekly: int,
    keep_monthly: int,
    settings: Settings,
) -> int:
    """Serve probes, metrics and a status page: /livez, /readyz, /metrics, /status.json and /.

    Only this machine may look without the token; contents of documents and decisions need it
    always.  Listening anywhere but on 127.0.0.1 needs a token of yours.

    With --backup-every it makes backups, too; the first one at once where there is none.  A failure
    is logged, shown by `status`, `doctor` and the page, and tried again.
    """
    try:
        import uvicorn

        from standfast.admin.backup.pruning import Retention
        from standfast.admin.backup.schedule import Schedule
        from standfast.admin.serve.app import create_app
        from standfast.admin.serve.guard import is_loopback_host
    except ImportError as error:
        raise ConfigError(
            f"the package `{error.name}` is not installed",
            code="usage",
            hint="pip install 'standfast[serve]'",
        ) from None
    token = _token(token_file)
    if token is None:
        if not is_loopback_host(host):
            raise ConfigError(
                f"listening on {host} lets other machines in, and there is no token",
                code="usage",
                hint="set STANDFAST_TOKEN to a long random text: openssl rand -hex 16",
            )
        token = secrets.token_urlsafe(24)
        note(f"token for contents and decisions: {token}")
    names = {*hosts} if is_loopback_host(host) or host in ("0.0.0.0", "::") else {*hosts, host}
    backups = None
    if backup_every is not None:
        retention = Retention(keep_last, keep_daily, keep_weekly, keep_monthly)
        backups = Schedule(backup_every * 3600.0, retention)
    app = create_app(
        settings.url, data_dir=settings.data_dir, token=token, hosts=names, backups=backups
    )
    app.start()
    place = f"[{host}]" if ":" in host else host
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=2,
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        http="h11",
        ws="none",
        lifespan="off",
    )
    server = uvicorn.Server(config)
    with library_warnings():
        try:
            sockets = None
            if not port:  # it is known once there is a socket; who reads it may connect at once
                sockets = [config.bind_socket()]
                sockets[0].listen(MAX_CONNECTIONS)
                port = sockets[0].getsockname()[1]
            note(
                f"serving the status of {shown(settings.target.display)} on http://{place}:{port}/"
            )
            server.run(sockets)
        except SystemExit:
            raise ConfigError(
                f"nothing can listen on {place}:{port}", code="usage", hint="give another --port"
            ) from None
        finally:
            app.close()
    return Exit.DONE


def _token(path: Path | None) -> str | None:
    if path is None:
        return os.environ.get("STANDFAST_TOKEN", "").strip() or None
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"the token's file cannot be read: {getattr(error, 'strerror', None) or 'not text'}",
            code="usage",
            hint="name a file with the token in one line",
        ) from None
    if not text:
        raise ConfigError("the token's file is empty", code="usage", hint="write the token into it")
    return text
