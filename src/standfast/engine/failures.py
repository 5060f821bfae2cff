"""What the errors of the primary mean for the store: is it away, and did the write take effect?"""

from __future__ import annotations

from standfast.engine.state_machine import Event, Lost, RoundFailed
from standfast.errors import StandfastError, Unavailable

#: Codes of errors after which it is unknown whether the batch took effect.
IN_DOUBT = frozenset({"deadline", "connection_lost", "server_io", "server_internal"})
#: Codes that say that the primary is not there for writes in time, and that nothing took effect.
AWAY = frozenset({"connection", "shutdown", "read_only", "expired"})


def means_away(error: StandfastError) -> bool:
    """Whether the primary cannot be reached, or not in time (I4).

    A local file on a read-only disk says `read_only` too, as a ConfigError: that is not an outage.
    """
    return isinstance(error, Unavailable) and error.code in IN_DOUBT | AWAY


def failure_of(error: StandfastError) -> Event:
    """What the error of a replay says about the primary (I4)."""
    return Lost(error.code) if means_away(error) else RoundFailed(error.code)
