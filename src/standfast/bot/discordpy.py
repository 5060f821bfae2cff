"""discord.py and a bot's state: opened before the gateway, views re-added, closed at the end.

Needs the extra: `pip install 'standfast[discord]'`.

::

    class Bot(StorageMixin, commands.Bot):
        storage_options = {"sole_writer": True}

    bot = Bot(command_prefix="!", intents=discord.Intents.default())
    bot.persist_view("registration", lambda message: RegistrationView())

Source: the discord.py documentation of `Client.setup_hook`, `Client.add_view` and
`Client.wait_until_ready`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from functools import partial
from types import TracebackType
from typing import Any, ClassVar

import msgspec

try:
    import discord
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"{error}: install it with pip install 'standfast[discord]'", name=error.name
    ) from None

from standfast.api.aio import AsyncStore
from standfast.api.opening import open_async_store, outage_options
from standfast.bot.messages import Message
from standfast.bot.schedules import DueClaim
from standfast.bot.store import AsyncBotStore
from standfast.errors import ConfigError, StandfastError, Unavailable

logger = logging.getLogger("standfast")

MakeView = Callable[[Message], discord.ui.View]
"""Makes the view of a persisted message; persistent: no timeout, every item with a custom_id."""

#: Pause before another attempt at what needs a storage that had no answer.
RETRY_PAUSE_S = 2.0
#: Answers of Discord that mean "gone", for a message, its channel, a member, a user.
#: Source: Discord's developer documentation, "JSON error codes".
_GONE = frozenset({10003, 10007, 10008, 10013})


class Reconciliation(msgspec.Struct, frozen=True):
    """What had happened while the bot was away.

    `messages_unverified` could not be looked at: a missing permission, an older record without
    its channel, a guild that the bot is not in, Discord did not answer; or it is not known to be a
    message, and only looks so.
    """

    messages_checked: int = 0
    messages_gone: int = 0
    messages_unverified: int = 0
    members_gone: int = 0


class StorageMixin(discord.Client):
    """Gives a client its state: to be put before `commands.Bot` or `discord.Client` in the bases.

    In `setup_hook`, before the gateway, it opens the storage and re-adds the views of all persisted
    messages: from the mirror when PostgreSQL is down; if the mirror is not complete, as soon as
    PostgreSQL is back.  After the first ready event it runs `reconcile`, then carries out due
    schedules every `schedule_interval_s`.  `close` closes the Discord connection first and the
    storage afterwards.  A subclass that overrides `setup_hook` or `close` calls `super()`.

    With the default deadline of 1.0 s a call of the storage takes little more than that in the
    moment in which PostgreSQL stops answering, and milliseconds before and afterwards: it fits into
    the 3 s that Discord allows for a response.
    """

    #: Options of `standfast.open_async`.
    storage_options: ClassVar[Mapping[str, Any]] = {}
    #: Seconds between two looks at what is due.
    schedule_interval_s: ClassVar[float] = 15.0

    _state: AsyncBotStore | None = None
    _ending: asyncio.Task[None] | None = None

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._makers: dict[str, MakeView] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.reconciled = asyncio.Event()
        """Set when the first reconciliation has ended."""
        self.reconciliation = Reconciliation()
        """What the last reconciliation has found."""

    @property
    def state(self) -> AsyncBotStore:
        """The bot's state.  ConfigError("not_open") before `setup_hook`."""
        if self._state is None:
            raise ConfigError(
                "the bot's storage is not open yet",
                code="not_open",
                hint="use it from setup_hook on, after super().setup_hook()",
            )
        return self._state

    @property
    def store(self) -> AsyncStore:
        """The store that the state is in."""
        return self.state.store

    # ---- what a bot may override

    async def open_storage(self) -> AsyncBotStore:
        """Open the storage; by default `standfast.open_async(**storage_options)`."""
        options = dict(self.storage_options)
        places = {name: options.pop(name, None) for name in ("url", "data_dir", "deadline_s")}
        return AsyncBotStore(await open_async_store(**places, options=outage_options(**options)))

    async def close_storage(self) -> None:
        """Close the storage; what could not reach PostgreSQL is safe in the journal."""
        await self.store.close()

    async def tracked_members(self, guild: discord.Guild) -> Iterable[int]:
        """The members whose leaving matters; by default those on the waitlist."""
        waiting = await self.state.waitlist.list(guild.id)
        return [entry.member_id for entry in waiting if entry.member_id is not None]

    async def on_member_gone(self, guild_id: str, member_id: int) -> None:
        """A tracked member has left the guild; by default the waitlist forgets them."""
        await self.state.waitlist.remove(guild_id, member_id)

    async def on_message_gone(self, message: Message) -> None:
        """A persisted message has been deleted; its record was dropped already."""

    async def on_schedule_due(self, claim: DueClaim) -> None:
        """Carry out what is due, which no other process gets meanwhile.

        Returning removes the schedule; raising gives it back, to be tried again.
        """

    # ---- views

    def persist_view(self, name: str, make: MakeView) -> None:
        """Re-add the views of the persisted messages of this name, at every start.

        `make(message)` is called in `setup_hook`, once for each message.
        """
        self._makers[name] = make

    async def setup_hook(self) -> None:
        """Open the storage and re-add the views; discord.py calls it once, before the gateway."""
        self._state = await self.open_storage()
        try:
            await self._add_views()
        except Unavailable as error:
            # New here, and the primary is down: nobody can tell yet which messages there are.
            logger.warning("the views are re-added later: %s", error)
            self._begin(self._add_views_later())
        await super().setup_hook()
        self._begin(self._serve())

    async def _add_views(self) -> None:
        for message in await self.state.messages.known(self._makers):
            if (make := self._makers.get(message.name)) is not None:
                self.add_view(make(message), message_id=message.message_id)

    async def _add_views_later(self) -> None:
        while True:
            await asyncio.sleep(RETRY_PAUSE_S)
            if await _survives(self._add_views, "the views are re-added later"):
                return

    # ---- the end

    async def close(self) -> None:
        """End what runs here, then Discord, then the storage.  Idempotent.

        Whoever calls it waits for all of it, and so does the end of `async with bot`.
        """
        if self._ending is None:
            self._ending = asyncio.create_task(self._end())
        await asyncio.shield(self._ending)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Discord's part ends `start` already, in whatever task `close` was called; the storage's
        # part is not to be cut short by the end of the loop.
        await super().__aexit__(kind, error, trace)
        await self.close()

    async def _end(self) -> None:
        tasks, self._tasks = self._tasks, set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await super().close()
        if self._state is not None:
            await self.close_storage()
            self._state = None

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a task of the bot's storage ended by a bug", exc_info=error)

    # ---- while it runs

    async def _serve(self) -> None:
        await self.wait_until_ready()
        while True:
            if not self.reconciled.is_set():
                await _survives(self._reconcile_once, "what happened meanwhile is looked at later")
            await _survives(self.run_due, "schedules are looked at again later")
            is_early = not self.reconciled.is_set()
            await asyncio.sleep(RETRY_PAUSE_S if is_early else self.schedule_interval_s)

    async def _reconcile_once(self) -> None:
        self.reconciliation = await self.reconcile()
        self.reconciled.set()

    async def run_due(self) -> int:
        """Claim and carry out what is due now; returns how many schedules were done.

        While claims cannot be decided (the primary is down and the store is not a `sole_writer`)
        nothing is done: the schedules stay due.
        """
        try:
            claims = await self.state.schedules.claim_due()
        except Unavailable as error:
            logger.warning("schedules wait: %s", error)
            return 0
        done = 0
        for claim in claims:
            what = f"schedule {claim.due.name!r} of guild {claim.guild_id} failed"
            # The application's handler, or Discord: whatever it is, it is not done.
            if await _survives(partial(self.on_schedule_due, claim), what):
                done += await self._finish(self.state.schedules.done, claim)
            else:
                await self._finish(self.state.schedules.release, claim)
        return done

    async def _finish(
        self, finish: Callable[[DueClaim], Coroutine[Any, Any, bool]], claim: DueClaim
    ) -> bool:
        try:
            return await finish(claim)
        except StandfastError as error:
            logger.warning("schedule %r is due again later: %s", claim.due.name, error)
            return False

    # ---- what happened while the bot was away

    async def reconcile(self) -> Reconciliation:
        """Compare the records with Discord: drop messages that are gone, report members who left.

        A record is dropped only when Discord says that its message or channel does not exist, and
        only when it is known to be a message: its name was given to `persist_view`, or it was
        written by `messages.set`.
        """
        known = await self.state.messages.known(self._makers)
        counts = {"checked": 0, "gone": 0, "unverified": 0}
        for message in known:
            verdict = await self._look_at(message)
            counts[verdict] += 1
            if verdict == "gone":
                await self.state.messages.remove(
                    message.guild_id, message.name, message_id=message.message_id
                )
                await self.on_message_gone(message)
        names = {(message.guild_id, message.name) for message in known}
        for other in await self.state.messages.list():
            counts["unverified"] += (other.guild_id, other.name) not in names
        members_gone = 0
        for guild in self.guilds:
            if self.state.allows(guild.id):
                members_gone += await self._find_leavers(guild)
        return Reconciliation(
            counts["checked"] + counts["gone"], counts["gone"], counts["unverified"], members_gone
        )

    async def _look_at(self, message: Message) -> str:
        guild = self.get_guild(int(message.guild_id))
        if guild is None or message.channel_id is None:
            return "unverified"
        channel = self.get_partial_messageable(message.channel_id, guild_id=guild.id)
        try:
            await channel.fetch_message(message.message_id)
        except discord.HTTPException as error:
            return "gone" if _is_gone(error) else "unverified"
        return "checked"

    async def _find_leavers(self, guild: discord.Guild) -> int:
        gone = 0
        for member_id in await self.tracked_members(guild):
            if guild.get_member(member_id) is not None:
                continue
            try:
                await guild.fetch_member(member_id)
            except discord.HTTPException as error:
                if _is_gone(error):
                    gone += 1
                    await self.on_member_gone(str(guild.id), member_id)
        return gone


async def _survives(work: Callable[[], Awaitable[object]], what: str) -> bool:
    """Do a piece of work; False when it failed, by whatever error, which the log says.

    A cancellation that was caused inside of it is an error like others; one that is meant
    for this task ends it.
    """
    try:
        await work()
    except Unavailable as error:
        logger.warning("%s: %s", what, error)
    except Exception:
        logger.exception("%s", what)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        logger.exception("%s", what)
    else:
        return True
    return False


def _is_gone(error: discord.HTTPException) -> bool:
    return isinstance(error, discord.NotFound) and error.code in _GONE
