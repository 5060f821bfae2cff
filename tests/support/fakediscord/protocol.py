"""Numbers of Discord's API, and the errors that it and the controller answer with.

Source: Discord's developer documentation, "Gateway", "Permissions", "Opcodes and Status Codes".
"""

from __future__ import annotations

import itertools
import threading
import time
from datetime import UTC, datetime
from typing import Any, NamedTuple

Json = dict[str, Any]

# Gateway opcodes.
DISPATCH, HEARTBEAT, IDENTIFY, PRESENCE, VOICE_STATE = 0, 1, 2, 3, 4
RESUME, RECONNECT, REQUEST_MEMBERS, INVALID_SESSION, HELLO, HEARTBEAT_ACK = 6, 7, 8, 9, 10, 11

# Intents.
GUILDS, GUILD_MEMBERS, GUILD_PRESENCES = 1 << 0, 1 << 1, 1 << 8
GUILD_MESSAGES, DIRECT_MESSAGES, MESSAGE_CONTENT = 1 << 9, 1 << 12, 1 << 15

# Message flags.
SUPPRESS_EMBEDS, EPHEMERAL, LOADING, COMPONENTS_V2 = 1 << 2, 1 << 6, 1 << 7, 1 << 15

# Channel types.
TEXT, DM = 0, 1

# Interaction types, and the types of their first answers.
COMMAND, COMPONENT, AUTOCOMPLETE, MODAL_SUBMIT = 2, 3, 4, 5
MESSAGE, DEFERRED, DEFERRED_UPDATE, UPDATE, CHOICES, MODAL = 4, 5, 6, 7, 8, 9

# Component types.
ACTION_ROW, BUTTON, STRING_SELECT, TEXT_INPUT = 1, 2, 3, 4
USER_SELECT, ROLE_SELECT, MENTIONABLE_SELECT, CHANNEL_SELECT = 5, 6, 7, 8
LABEL, CHECKBOX = 18, 23
SELECTS = (STRING_SELECT, USER_SELECT, ROLE_SELECT, MENTIONABLE_SELECT, CHANNEL_SELECT)

# Permissions. What an administrator gets in an interaction is every bit, not only its own.
ADMINISTRATOR = 1 << 3
ALL_PERMISSIONS = (1 << 53) - 1
PLAIN_PERMISSIONS = (
    (1 << 6)  # add reactions
    | (1 << 10)  # view channel
    | (1 << 11)  # send messages
    | (1 << 14)  # embed links
    | (1 << 15)  # attach files
    | (1 << 16)  # read message history
    | (1 << 31)  # use application commands
)

#: How long a client may answer, edit and follow up with an interaction's token.
TOKEN_LIFE_S = 15 * 60.0

_EPOCH_MS = 1_420_070_400_000
_UNKNOWN = {
    "channel": (10003, "Unknown Channel"),
    "guild": (10004, "Unknown Guild"),
    "member": (10007, "Unknown Member"),
    "message": (10008, "Unknown Message"),
    "role": (10011, "Unknown Role"),
    "user": (10013, "Unknown User"),
    "webhook": (10015, "Unknown Webhook"),
    "interaction": (10062, "Unknown interaction"),
    "command": (10063, "Unknown application command"),
}


class ApiError(Exception):
    """What a REST request is refused with, in Discord's form."""

    def __init__(self, status: int, code: int, message: str, errors: Json | None = None) -> None:
        super().__init__(f"{status} (error code: {code}): {message}")
        self.status, self.code, self.message, self.errors = status, code, message, errors

    def body(self) -> Json:
        more = {"errors": self.errors} if self.errors else {}
        return {"code": self.code, "message": self.message, **more}


def unknown(what: str) -> ApiError:
    """404 with the code that Discord has for a thing of this kind."""
    return ApiError(404, *_UNKNOWN[what])


def invalid_form(field: str, message: str) -> ApiError:
    """400 with the code of a body that Discord does not take."""
    errors = {field: {"_errors": [{"code": "INVALID", "message": message}]}}
    return ApiError(400, 50035, "Invalid Form Body", errors)


class FakeDiscordError(AssertionError):
    """A test asked for something that cannot be, or waited for something that did not come."""


class Unanswered(FakeDiscordError):
    """An interaction got no answer that Discord would have taken."""


class Request(NamedTuple):
    """One line of the log of REST requests; the path is what follows /api/v10."""

    method: str
    path: str
    status: int


class Snowflakes:
    """Makes ids as Discord does: the time they were made, then a number; always growing."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0

    def __call__(self) -> int:
        with self._lock:
            now = (time.time_ns() // 1_000_000 - _EPOCH_MS) << 22
            self._last = max(now, self._last + 1)
            return self._last


def iso_time(snowflake: int) -> str:
    """The time in an id, as Discord writes times."""
    return datetime.fromtimestamp(((snowflake >> 22) + _EPOCH_MS) / 1000, UTC).isoformat()


snowflake = Snowflakes()
#: Numbers that tell users of one name apart.
serial = itertools.count(1)
