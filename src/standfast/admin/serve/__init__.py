"""A store's health over HTTP: probes, metrics, and a page for people.  Needs the extra `serve`.

standfast serve                                # the command
app.mount("/state", standfast.admin.serve.create_app(token=...))    # in an ASGI app of your own
"""

from __future__ import annotations

from standfast.admin.serve.app import StatusApp, create_app

__all__ = ["StatusApp", "create_app"]
