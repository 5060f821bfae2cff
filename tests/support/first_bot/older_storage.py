"""The older storage service under a name that no drop-in module takes."""

from __future__ import annotations

import importlib.util
from pathlib import Path

_spec = importlib.util.spec_from_file_location(
    "older_storage_service", Path(__file__).parent / "core" / "storage_service.py"
)
assert _spec is not None
assert _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
UnifiedStorageService = _module.UnifiedStorageService
