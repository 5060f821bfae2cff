"""What a result or an error shows to whoever prints it in any way."""

from __future__ import annotations

import traceback
from typing import Any

from standfast.errors import ConfigError


def attempt(call: Any, *args: Any, **kwargs: Any) -> Any:
    """Give the result of a call, or the ConfigError that it raises."""
    try:
        return call(*args, **kwargs)
    except ConfigError as error:
        return error


def shown(result: Any) -> str:
    """Everything that a result or an error can print, with the exceptions behind it."""
    texts = [str(result), repr(result), str(getattr(result, "warnings", ""))]
    if isinstance(result, ConfigError):
        texts += [result.hint, result.code, result.message]
    if isinstance(result, BaseException):
        texts += traceback.format_exception(result)
        texts += [shown(link) for link in (result.__context__, result.__cause__) if link]
    return "\n".join(texts)
