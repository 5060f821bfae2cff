"""Two bots on one waitlist in any order of calls, crashes and lapsed claims, against a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)

from standfast import ConflictError
from standfast.api.sync import Store
from standfast.backends.memory import MemoryBackend
from standfast.bot import BotStore, EntryClaim, Environment
from standfast.bot.entries import WaitlistEntry
from standfast.engine.embedded import EmbeddedEngine
from support.bots import Clock

GUILD = 8138
TEAMS = ["Reef", "Deep Sea", None]
LEASE_S = 60

bots = st.integers(0, 1)
members = st.integers(1, 6)
teams = st.sampled_from(TEAMS)


class Waitlists(RuleBasedStateMachine):
    """The model: the line of those who wait or are claimed, their marks, and the registered."""

    claims = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        backend = MemoryBackend()
        self.clock = Clock()
        self.stores = [Store(EmbeddedEngine(backend)) for _ in range(2)]
        self.bots = [
            BotStore(store, environment=Environment(), clock=self.clock) for store in self.stores
        ]
        self.line: list[int] = []
        self.marks: dict[int, EntryClaim] = {}
        self.registered: dict[int, str | None] = {}
        self.capacity = 0

    @initialize(capacity=st.integers(1, 4), first=st.lists(teams, min_size=2, max_size=5))
    def begin(self, capacity: int, first: list[str | None]) -> None:
        self.capacity = capacity
        self.stores[0]["regs"].put(GUILD, {"registered": {}})
        for member, team in enumerate(first, start=1):
            self.add(0, member, team)

    def told(self) -> Mapping[str, str]:
        registered: Mapping[str, str] = self.stores[0]["regs"].get(GUILD)["registered"]
        return registered

    def is_live(self, member: int) -> bool:
        return member in self.marks and self.clock.now < self.marks[member].until

    # ---- what people do

    @rule(bot=bots, member=members, team=teams)
    def add(self, bot: int, member: int, team: str | None) -> None:
        placed = self.bots[bot].waitlist.add(
            GUILD, member_id=member, discord_tag="t", ign="i", team_name=team
        )
        assert placed.is_new == (member not in self.line)
        assert placed.entry.team_name == team
        if member not in self.line:
            self.line.append(member)

    @rule(member=members, team=teams)
    def added_elsewhere(self, member: int, team: str | None) -> None:
        """What another directory did in an outage arrives: an append."""
        entry = WaitlistEntry(
            member_id=member, discord_tag="t", ign="i", team_name=team, added_at=self.clock.now
        )
        self.stores[1]["waitlist_data"].append(GUILD, "/waitlist", entry.to_json())
        if member not in self.line:
            self.line.append(member)

    @rule(bot=bots, member=members)
    def remove(self, bot: int, member: int) -> None:
        removed = self.bots[bot].waitlist.remove(GUILD, member)
        assert (removed is not None) == (member in self.line)
        if member in self.line:
            self.line.remove(member)
            self.marks.pop(member, None)

    @rule(bot=bots, member=members, team=teams)
    def update(self, bot: int, member: int, team: str | None) -> None:
        updated = self.bots[bot].waitlist.update(GUILD, member, team_name=team)
        assert (updated is not None) == (member in self.line)

    @rule(member=members, team=teams)
    def register_by_hand(self, member: int, team: str | None) -> None:
        """Somebody presses the button, and gets a place unless all are taken or offered."""
        taken = {*self.registered, *self.marks}
        if member in taken or len(taken) < self.capacity:
            self.register(member, team)

    def register(self, member: int, team: str | None) -> None:
        self.registered[member] = team
        names = {str(one): team or "" for one, team in self.registered.items()}
        self.stores[0]["regs"].put(GUILD, {"registered": names})

    @rule(member=members)
    def unregister(self, member: int) -> None:
        if member in self.registered:
            del self.registered[member]
            names = {str(one): team or "" for one, team in self.registered.items()}
            self.stores[0]["regs"].put(GUILD, {"registered": names})

    @rule(seconds=st.sampled_from([1, 30, LEASE_S]))
    def wait(self, seconds: int) -> None:
        self.clock.advance(seconds)

    # ---- what bots do

    @rule(target=claims, bot=bots, mode=st.sampled_from(["normal", "doubleup"]))
    def promote(self, bot: int, mode: str) -> Any:
        made = self.bots[bot].waitlist.promote(
            GUILD, capacity=self.capacity, registered=self.told, mode=mode, lease_s=LEASE_S
        )
        before = [member for member in self.line if not self.is_live(member)]
        for claim in made:
            member = claim.entry.member_id
            assert member in before, "somebody who does not wait, or twice"
            before.remove(member)
            assert member not in self.registered
        if made:
            self.marks = {one: mark for one, mark in self.marks.items() if self.is_live(one)}
        self.marks |= {claim.entry.member_id: claim for claim in made}
        waiting = [member for member in before if member not in self.registered]
        if mode == "normal" and waiting:
            assert len(self.taken()) >= self.capacity, "a place is free, and somebody waits"
        return multiple(*made)

    @rule(bot=bots, claim=consumes(claims))
    def confirm(self, bot: int, claim: EntryClaim) -> None:
        member = claim.entry.member_id
        # Not null, by which a merge patch removes a member.
        patch = {"registered": {str(member): claim.entry.team_name or ""}}

        def confirm() -> None:
            self.bots[bot].waitlist.confirm(
                claim, also=lambda batch: batch.patch("regs", GUILD, patch)
            )

        if self.marks.get(member) != claim:
            with pytest.raises(ConflictError):
                confirm()
            return
        confirm()
        del self.marks[member]
        self.line.remove(member)
        self.registered[member] = claim.entry.team_name

    @rule(bot=bots, claim=consumes(claims))
    def release(self, bot: int, claim: EntryClaim) -> None:
        member = claim.entry.member_id
        is_ours = self.marks.get(member) == claim
        assert self.bots[bot].waitlist.release(claim) == is_ours
        if is_ours:
            del self.marks[member]

    @rule(claim=consumes(claims))
    def crash(self, claim: EntryClaim) -> None:
        """The process that had the claim is gone."""

    # ---- what holds always

    def taken(self) -> set[int]:
        return set(self.told_ids()) | {member for member in self.line if self.is_live(member)}

    def told_ids(self) -> list[int]:
        return [int(member) for member in self.told()]

    @invariant()
    def capacity_is_kept(self) -> None:
        claims = self.bots[0].waitlist.claimed(GUILD)
        places = {*self.told_ids(), *(claim.entry.member_id for claim in claims)}
        assert len(places) <= self.capacity

    @invariant()
    def nobody_is_lost(self) -> None:
        expected = [member for member in self.line if not self.is_live(member)]
        for bot in self.bots:
            assert [entry.member_id for entry in bot.waitlist.list(GUILD)] == expected
            claimed = [claim.entry.member_id for claim in bot.waitlist.claimed(GUILD)]
            assert claimed == [member for member in self.line if self.is_live(member)]

    def teardown(self) -> None:
        for store in self.stores:
            store.close()


TestWaitlists = Waitlists.TestCase
TestWaitlists.settings = settings(
    max_examples=settings().max_examples, stateful_step_count=40, deadline=None
)


@pytest.mark.slow
class TestWaitlistsAtLength(Waitlists.TestCase):  # type: ignore[misc]
    """The same for more sequences of steps."""

    settings = settings(
        max_examples=8 * settings().max_examples, stateful_step_count=40, deadline=None
    )
