from __future__ import annotations

from support.place_fixtures import embedded, place, untouched

__all__ = ["embedded", "place", "untouched"]
