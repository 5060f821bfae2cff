"""The faces of the parts of a bot's state: each once blocking, once awaited."""

from __future__ import annotations

from standfast.api.drive import awaited, blocking
from standfast.bot.guild_settings import SettingsCalls
from standfast.bot.messages import MessagesCalls
from standfast.bot.modes import ModesCalls
from standfast.bot.records import RecordsCalls
from standfast.bot.schedules import SchedulesCalls


class Messages:
    """Which message of a guild carries which view: `bot.messages`."""

    def __init__(self, calls: MessagesCalls) -> None:
        self.calls = calls

    set = blocking(MessagesCalls.set)
    get = blocking(MessagesCalls.get)
    remove = blocking(MessagesCalls.remove)
    list = blocking(MessagesCalls.list)


class AsyncMessages:
    """As `Messages`, awaited."""

    def __init__(self, calls: MessagesCalls) -> None:
        self.calls = calls

    set = awaited(MessagesCalls.set)
    get = awaited(MessagesCalls.get)
    remove = awaited(MessagesCalls.remove)
    list = awaited(MessagesCalls.list)


class Modes:
    """The event mode of each guild: `bot.modes`; `names` are the modes there are."""

    def __init__(self, calls: ModesCalls) -> None:
        self.calls = calls
        self.names = calls.names

    get = blocking(ModesCalls.get)
    set = blocking(ModesCalls.set)


class AsyncModes:
    """As `Modes`, awaited."""

    def __init__(self, calls: ModesCalls) -> None:
        self.calls = calls
        self.names = calls.names

    get = awaited(ModesCalls.get)
    set = awaited(ModesCalls.set)


class Schedules:
    """What is due in which guild, and who does it, once: `bot.schedules`."""

    def __init__(self, calls: SchedulesCalls) -> None:
        self.calls = calls

    set = blocking(SchedulesCalls.set)
    get = blocking(SchedulesCalls.get)
    clear = blocking(SchedulesCalls.clear)
    list = blocking(SchedulesCalls.list)
    due = blocking(SchedulesCalls.due)
    claim = blocking(SchedulesCalls.claim)
    claim_due = blocking(SchedulesCalls.claim_due)
    done = blocking(SchedulesCalls.done)
    release = blocking(SchedulesCalls.release)


class AsyncSchedules:
    """As `Schedules`, awaited."""

    def __init__(self, calls: SchedulesCalls) -> None:
        self.calls = calls

    set = awaited(SchedulesCalls.set)
    get = awaited(SchedulesCalls.get)
    clear = awaited(SchedulesCalls.clear)
    list = awaited(SchedulesCalls.list)
    due = awaited(SchedulesCalls.due)
    claim = awaited(SchedulesCalls.claim)
    claim_due = awaited(SchedulesCalls.claim_due)
    done = awaited(SchedulesCalls.done)
    release = awaited(SchedulesCalls.release)


class GuildSettings:
    """Settings of each guild over registered defaults: `bot.settings`."""

    def __init__(self, calls: SettingsCalls) -> None:
        self.calls = calls

    get = blocking(SettingsCalls.get)
    patch = blocking(SettingsCalls.patch)
    reset = blocking(SettingsCalls.reset)
    overrides = blocking(SettingsCalls.overrides)


class AsyncGuildSettings:
    """As `GuildSettings`, awaited."""

    def __init__(self, calls: SettingsCalls) -> None:
        self.calls = calls

    get = awaited(SettingsCalls.get)
    patch = awaited(SettingsCalls.patch)
    reset = awaited(SettingsCalls.reset)
    overrides = awaited(SettingsCalls.overrides)


class GuildRecords:
    """The documents of guilds as such: `bot.guilds`."""

    def __init__(self, calls: RecordsCalls) -> None:
        self.calls = calls

    get = blocking(RecordsCalls.get)
    patch = blocking(RecordsCalls.patch)
    ids = blocking(RecordsCalls.ids)
    forget = blocking(RecordsCalls.forget)
    cleanup = blocking(RecordsCalls.cleanup)


class AsyncGuildRecords:
    """As `GuildRecords`, awaited."""

    def __init__(self, calls: RecordsCalls) -> None:
        self.calls = calls

    get = awaited(RecordsCalls.get)
    patch = awaited(RecordsCalls.patch)
    ids = awaited(RecordsCalls.ids)
    forget = awaited(RecordsCalls.forget)
    cleanup = awaited(RecordsCalls.cleanup)
