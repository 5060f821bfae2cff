from __future__ import annotations

from support.place_fixtures import embedded, place

__all__ = ["embedded", "place"]
