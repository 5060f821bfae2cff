"""Gateway sessions: the events of a client, kept so that it can resume."""

from __future__ import annotations

import json
import secrets
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from support.fakediscord import payloads
from support.fakediscord.protocol import DISPATCH, GUILD_MEMBERS, Json

if TYPE_CHECKING:
    from support.fakediscord.world import World

API_VERSION = 10
#: How many events of a session are kept; a client that was away for more begins anew.
KEPT_EVENTS = 20_000
_CHUNK = 1000


class Session:
    """One IDENTIFY and what followed: numbered events, and who is connected to it now.

    Everything is done under the world's lock; `wake` is called after events were added.
    """

    def __init__(self, number: int, intents: int, shard: list[int] | None) -> None:
        self.id = secrets.token_hex(16)
        self.number = number
        self.intents = intents
        self.shard = shard
        self.wake: Callable[[], None] | None = None
        #: The last event that makes a client ready: READY, or RESUMED.
        self.ready_at = 0
        self.sent = 0
        self._events: deque[tuple[int, str]] = deque(maxlen=KEPT_EVENTS)
        self._last = 0

    @property
    def connected(self) -> bool:
        return self.wake is not None

    @property
    def ready(self) -> bool:
        """Whether the client that is connected was sent READY and its guilds, or RESUMED."""
        return self.connected and self.ready_at > 0 and self.sent >= self.ready_at

    def describe(self) -> str:
        state = "ready" if self.ready else "connected" if self.connected else "gone"
        return f"{self.number} {state}, {self.sent} of {self._last} events sent"

    def push(self, event: str, data: Json) -> None:
        self._last += 1
        text = json.dumps({"op": DISPATCH, "t": event, "s": self._last, "d": data})
        self._events.append((self._last, text))
        if self.wake is not None:
            self.wake()

    def greet(self, world: World, gateway_url: str) -> None:
        """READY, and the guilds."""
        ready: Json = {
            "v": API_VERSION,
            "user": payloads.self_user(world),
            "guilds": [{"id": str(each), "unavailable": True} for each in world.guilds],
            "session_id": self.id,
            "resume_gateway_url": gateway_url,
            "application": {"id": str(world.application_id), "flags": 0},
        }
        if self.shard is not None:
            ready["shard"] = self.shard
        self.push("READY", ready)
        for guild in world.guilds.values():
            data = {**payloads.guild_create(guild, self.intents), "unavailable": False}
            self.push("GUILD_CREATE", data)
        self.ready_at = self._last

    def can_resume(self, after: int) -> bool:
        """Whether every event after this number is still there."""
        first = self._events[0][0] if self._events else self._last + 1
        return first - 1 <= after <= self._last

    def resume(self, after: int) -> None:
        self.sent = after
        self.push("RESUMED", {"_trace": []})
        self.ready_at = self._last

    def waiting(self) -> list[tuple[int, str]]:
        """The events that are not sent yet."""
        missing = self._last - self.sent
        if not missing:
            return []
        return list(self._events)[-missing:]

    def send_members(self, world: World, asked: Json) -> None:
        """Answer REQUEST_GUILD_MEMBERS; everybody only to those with the intent for members."""
        ids = asked["guild_id"]
        guild = world.guilds.get(int(ids[0] if isinstance(ids, list) else ids))
        if guild is None:
            return
        members = list(guild.members.values())
        wanted = asked.get("user_ids")
        not_found: list[str] = []
        if wanted is not None:
            numbers = [int(each) for each in (wanted if isinstance(wanted, list) else [wanted])]
            not_found = [str(each) for each in numbers if each not in guild.members]
            members = [member for member in members if member.user.id in numbers]
        else:
            query = str(asked.get("query") or "").lower()
            members = [member for member in members if member.user.name.lower().startswith(query)]
            members = members[: asked.get("limit") or None]
            if not query and not self.intents & GUILD_MEMBERS:
                members = []
        every = [payloads.member_with_user(member) for member in members]
        chunks = [every[at : at + _CHUNK] for at in range(0, len(every), _CHUNK)] or [[]]
        for index, chunk in enumerate(chunks):
            data: Json = {
                "guild_id": str(guild.id),
                "members": chunk,
                "chunk_index": index,
                "chunk_count": len(chunks),
                "not_found": not_found,
            }
            if asked.get("nonce") is not None:
                data["nonce"] = asked["nonce"]
            self.push("GUILD_MEMBERS_CHUNK", data)
