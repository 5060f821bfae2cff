"""The waitlist while PostgreSQL is away: the list goes on, claims wait, and all of it arrives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from standfast import ConflictError, DataError, DeadlineExceeded, Unavailable
from standfast.bot import BotStore, Environment
from standfast.bot import waitlist_calls as waiting
from support.bots import Clock, Home
from support.cluster import Cluster
from support.faulty import (
    LOST,
    Link,
    Server,
    after,
    before,
    cut_off,
    eventually,
    open_link,
    wait_direct,
)
from support.outage import Outage

GUILD = 8138
_FLUSH_S = 20.0


@pytest.fixture(params=["blocking", "awaited"])
def home(request: pytest.FixtureRequest, pg_prepared: str, tmp_path: Path) -> Iterator[Home]:
    """PostgreSQL through both APIs."""
    found = Home(pg_prepared, tmp_path, face=request.param)
    yield found
    found.close()


@pytest.fixture
def outage(home: Home) -> Outage:
    assert home.url is not None
    return Outage(home.url, home.root)


def add(bot: Any, *member_ids: int, **details: Any) -> Any:
    placed = None
    for member_id in member_ids:
        told = {"discord_tag": f"tag-{member_id}", "ign": f"ign-{member_id}"} | details
        placed = bot.waitlist.add(GUILD, member_id=member_id, **told)
    return placed


def ids(entries: Any) -> list[int]:
    return [getattr(one, "entry", one).member_id for one in entries]


def waits(bot: Any) -> list[int]:
    return ids(bot.waitlist.list(GUILD))


def stored(store: Any) -> list[int]:
    """Who stands in the list as it is stored, with every later word on somebody."""
    return [entry["member_id"] for entry in store["waitlist_data"].get(str(GUILD))["waitlist"]]


def back(bot: Any) -> None:
    """Everything is on PostgreSQL, which decides again."""
    bot.store.flush(timeout_s=_FLUSH_S)
    eventually(lambda: bot.store.health().healthy)


def refused(call: Callable[[], Any]) -> None:
    with pytest.raises(Unavailable) as caught:
        call()
    assert caught.value.code == "needs_primary"
    assert caught.value.hint


def test_the_list_goes_on(home: Home, outage: Outage) -> None:
    """Adding, giving new details, updating and removing go on in an outage, are seen at once, and
    are on PostgreSQL once afterwards, where the next write stores the list folded."""
    bot = home.bot()
    add(bot, 1, 2, 3)
    with outage.away():
        placed = add(bot, 4)
        assert (placed.position, placed.is_new) == (4, True)
        home.clock.advance(60)
        placed = add(bot, 2, ign="again")
        assert (placed.position, placed.is_new, placed.entry.ign) == (2, False, "again")
        assert bot.waitlist.update(GUILD, 3, team_name="Reef").team_name == "Reef"
        assert bot.waitlist.remove(GUILD, 1).ign == "ign-1"
        assert bot.waitlist.remove(GUILD, 1) is None
        assert bot.waitlist.update(GUILD, 1, ign="x") is None
        placed = add(bot, 1)
        assert (placed.position, placed.is_new) == (4, True)
        expected = bot.waitlist.list(GUILD)
        assert ids(expected) == [2, 3, 4, 1]
        assert bot.waitlist.length(GUILD) == 4
        assert bot.store.health().lag_ops == 5
    back(bot)
    other = home.bot("other")
    assert other.waitlist.list(GUILD) == bot.waitlist.list(GUILD) == expected
    assert other.waitlist.update(GUILD, 3, ign="new").team_name == "Reef"
    assert stored(other.store) == [2, 3, 4, 1]
    assert other.store["waitlist_data"].get(GUILD)["waitlist"][0]["ign"] == "again"


def test_a_server_that_is_stopped(tmp_path: Path) -> None:
    """The same when the server itself is killed, and comes back."""
    with Cluster() as cluster:
        home = Home(cluster.url(), tmp_path)
        try:
            bot = home.bot()
            add(bot, 1, 2)
            (claim,) = bot.waitlist.promote(GUILD, capacity=1, registered={})
            cluster.kill()
            add(bot, 3)
            bot.waitlist.remove(GUILD, 2)
            refused(lambda: bot.waitlist.confirm(claim))
            refused(lambda: bot.waitlist.promote(GUILD, capacity=2, registered={}))
            cluster.start()
            back(bot)
            bot.waitlist.confirm(claim)
            assert waits(bot) == waits(home.bot("other")) == [3]
        finally:
            home.close()


def test_claims_wait_for_the_primary(home: Home, outage: Outage) -> None:
    """Nobody is promoted in an outage, and nothing is confirmed: afterwards it is."""
    bot = home.bot()
    add(bot, 1, 2, 3)
    claim, other = bot.waitlist.promote(GUILD, capacity=2, registered={})
    with outage.away():
        add(bot, 4)
        refused(lambda: bot.waitlist.promote(GUILD, capacity=5, registered={}))
        refused(lambda: bot.waitlist.confirm(claim))
        refused(lambda: bot.waitlist.release(claim))
        refused(lambda: bot.waitlist.clear(GUILD))
        assert bot.waitlist.promote(GUILD, capacity=2, mode="normal", registered={}) == []
        assert bot.waitlist.claimed(GUILD) == [claim, other]
        assert waits(bot) == [3, 4]
    back(bot)
    bot.waitlist.confirm(claim)
    assert bot.waitlist.release(other) is True
    assert waits(bot) == [2, 3, 4]
    assert ids(bot.waitlist.promote(GUILD, capacity=5, registered={})) == [2, 3, 4]


def test_a_sole_writer_decides_itself(home: Home, outage: Outage) -> None:
    """With `sole_writer=True` a bot promotes, confirms and registers in the outage; on replay it
    holds, and nothing of it is among the conflicts."""
    bot = home.bot(store_options={"sole_writer": True})
    add(bot, 1, 2)
    assert bot.modes.get(GUILD) == "normal"

    with outage.away():
        add(bot, 3, 4)
        one, two, three = bot.waitlist.promote(GUILD, capacity=3, registered={})
        assert ids([one, two, three]) == [1, 2, 3]
        for claim in (one, two):
            patch = {str(claim.entry.member_id): "x"}
            bot.waitlist.confirm(claim, also=lambda b, p=patch: b.patch("regs", GUILD, p))
        with pytest.raises(ConflictError):
            bot.waitlist.confirm(one)
        assert bot.waitlist.release(three) is True
        bot.waitlist.remove(GUILD, 4)
        add(bot, 5)
        assert waits(bot) == [3, 5]
    back(bot)
    other = home.bot("other")
    assert waits(other) == waits(bot) == [3, 5]
    assert other.store["regs"].get(GUILD) == {"1": "x", "2": "x"}
    assert bot.store.health().conflicts == {}


def test_a_sole_writer_that_is_busy(home: Home, outage: Outage) -> None:
    """What is added while somebody is chosen, in an outage too, has the choice made again; it is
    no conflict of the caller's."""
    bot = home.bot(store_options={"sole_writer": True})
    add(bot, 1)
    with outage.away():
        add(bot, 2)
        asked: list[int] = []
        late = {"member_id": 3, "discord_tag": "t", "ign": "i"}

        def ask() -> Mapping[int, None]:
            asked.append(1)
            if len(asked) == 1:
                bot.store["waitlist_data"].append(GUILD, "/waitlist", late)
            return {}

        async def ask_async() -> Mapping[int, None]:
            asked.append(1)
            if len(asked) == 1:
                await bot.store.inner["waitlist_data"].append(GUILD, "/waitlist", late)
            return {}

        registered = ask if home.face == "blocking" else ask_async
        claims = bot.waitlist.promote(GUILD, capacity=3, registered=registered, mode="normal")
        assert ids(claims) == [1, 2, 3]
        assert len(asked) == 2
    back(bot)
    assert bot.waitlist.claimed(GUILD) == claims


def test_two_directories_in_one_outage(home: Home, outage: Outage) -> None:
    """I5: two bots, each with a data directory of its own, change one list while PostgreSQL is
    away: whatever the order of the replay, nothing that was acknowledged is lost, and nothing is a
    conflict that somebody has to look at."""
    far, near = home.bot("far"), home.bot("near")
    add(far, 1, 2, 3, 4, 5)
    assert waits(near) == [1, 2, 3, 4, 5]
    with outage.away():
        add(far, 10, 7)
        far.waitlist.remove(GUILD, 1)
        far.waitlist.update(GUILD, 2, ign="far")
        far.waitlist.update(GUILD, 5, ign="far")
        add(near, 20, 7)
        near.waitlist.remove(GUILD, 3)
        near.waitlist.update(GUILD, 4, ign="near")
        near.waitlist.remove(GUILD, 5)
        add(near, 2, team_name="Reef", ign="near")
    back(far)
    back(near)
    assert far.waitlist.list(GUILD) == near.waitlist.list(GUILD)
    found = waits(far)
    assert found[:2] == [2, 4]
    assert sorted(found) == [2, 4, 7, 10, 20]
    assert near.waitlist.entry(GUILD, 4).ign == "near"
    assert near.waitlist.entry(GUILD, 2).ign in ("near", "far")
    assert far.store.health().conflicts == {}


def test_an_outage_beside_a_bot_that_promotes(tmp_path: Path) -> None:
    """I5: a bot that is cut off removes, updates and adds, while another one, which is not,
    promotes and confirms: claims stay, who was confirmed does not come back by an update."""
    server = Server()
    link = Link(server)
    clock = Clock()
    store, engine = open_link(link, tmp_path / "far")
    near_store, near_engine = open_link(Link(server), tmp_path / "near")
    far, near = (
        BotStore(one, environment=Environment(), clock=clock) for one in (store, near_store)
    )
    try:
        wait_direct(engine)
        wait_direct(near_engine)
        add(far, 1, 2, 3, 4, 5)
        link.down = True
        far.waitlist.update(GUILD, 1, ign="far")
        far.waitlist.update(GUILD, 2, ign="far")
        far.waitlist.remove(GUILD, 3)
        add(far, 6)
        one, two = near.waitlist.promote(GUILD, capacity=2, registered={})
        near.waitlist.confirm(one)
        near.waitlist.update(GUILD, 4, ign="near")
        link.down = False
        wait_direct(engine)
        assert near.waitlist.claimed(GUILD)[0].id == two.id
        near.waitlist.confirm(two)
        assert waits(near) == waits(far) == [4, 5, 6]
        assert far.waitlist.entry(GUILD, 4).ign == "near"
        assert store.health().conflicts == {}
    finally:
        for one_link, one_store in ((link, store), (None, near_store)):
            if one_link is not None:
                one_link.down = True
            one_store.close(timeout_s=0.0)


def test_a_guild_that_is_not_known_here(home: Home, outage: Outage) -> None:
    """A bot that starts in an outage, in a new data directory, takes additions: the place is told
    when PostgreSQL is back.  What it would have to know, it says that it does not."""
    bot = home.bot()
    add(bot, 1, 2)
    with outage.away():
        late = home.bot("late")
        placed = add(late, 3)
        assert (placed.position, placed.is_new) == (None, True)
        placed = add(late, 2, ign="late")
        assert placed.position is None
        for call in (
            lambda: late.waitlist.list(GUILD),
            lambda: late.waitlist.remove(GUILD, 1),
            lambda: late.waitlist.update(GUILD, 1, ign="x"),
        ):
            with pytest.raises(Unavailable) as caught:
                call()
            assert caught.value.code == "not_mirrored"
    back(late)
    assert waits(late) == [1, 2, 3]
    assert late.waitlist.entry(GUILD, 2).ign == "late"
    assert late.waitlist.position(GUILD, 3) == 3


def test_an_outage_is_bounded(home: Home, outage: Outage, monkeypatch: pytest.MonkeyPatch) -> None:
    """I7: a list that grows by later words in an outage ends at its limit, too."""
    monkeypatch.setattr(waiting, "MAX_WAITLIST_ENTRIES", 4)
    bot = home.bot()
    add(bot, 1, 2)
    with outage.away():
        bot.waitlist.update(GUILD, 1, ign="x")
        bot.waitlist.remove(GUILD, 2)
        for call in (
            lambda: add(bot, 3),
            lambda: bot.waitlist.remove(GUILD, 1),
            lambda: bot.waitlist.update(GUILD, 1, ign="y"),
        ):
            with pytest.raises(DataError) as caught:
                call()
            assert caught.value.code == "waitlist_full"
    back(bot)
    add(bot, 3)
    assert stored(bot.store) == waits(bot) == [1, 3]


# ---- replies that are lost


class Lossy:
    """A bot on a link whose replies a test loses, and another one on the same database."""

    def __init__(self, root: Path) -> None:
        self.server = Server()
        self.link = Link(self.server)
        self.clock = Clock()
        self.store, self._engine = open_link(self.link, root / "data")
        self.other_store, other_engine = open_link(Link(self.server), root / "other")
        wait_direct(other_engine)
        self.bot, self.other = (
            BotStore(store, environment=Environment(), clock=self.clock)
            for store in (self.store, self.other_store)
        )
        self.drained()

    def drained(self) -> None:
        wait_direct(self._engine)

    def close(self) -> None:
        self.link.down = True
        for store in (self.store, self.other_store):
            store.close(timeout_s=0.0)


@pytest.fixture
def lossy(tmp_path: Path) -> Iterator[Lossy]:
    found = Lossy(tmp_path)
    yield found
    found.close()


@pytest.mark.parametrize("lost", ["before", "after"])
def test_claims_whose_reply_is_lost(lossy: Lossy, lost: Any) -> None:
    """DeadlineExceeded: whether the claims were made is unknown.  If so, nobody is promoted in
    their place until they lapse; then the entries are back, and are promoted once."""
    add(lossy.bot, 1, 2)
    lossy.link.script = [cut_off(lossy.link, lost)]
    with pytest.raises(DeadlineExceeded) as caught:
        lossy.bot.waitlist.promote(GUILD, capacity=1, registered={})
    assert caught.value.code == "unknown_outcome"
    lossy.drained()
    again = lossy.other.waitlist.promote(GUILD, capacity=1, registered={})
    assert ids(again) == ([1] if lost == "before" else [])
    lossy.clock.advance(60)
    assert waits(lossy.bot) == [1, 2]
    (claim,) = lossy.bot.waitlist.promote(GUILD, capacity=1, registered={})
    assert claim.entry.member_id == 1
    lossy.bot.waitlist.confirm(claim)
    assert waits(lossy.other) == [2]


@pytest.mark.parametrize("lost", ["before", "after"])
def test_a_confirmation_whose_reply_is_lost(lossy: Lossy, lost: Any) -> None:
    """DeadlineExceeded: the registration of `also` tells whether it was confirmed."""
    add(lossy.bot, 1)
    (claim,) = lossy.bot.waitlist.promote(GUILD, capacity=1, registered={})

    def confirm() -> None:
        lossy.bot.waitlist.confirm(claim, also=lambda b: b.patch("regs", GUILD, {"1": "x"}))

    lossy.link.script = [cut_off(lossy.link, lost)]
    with pytest.raises(DeadlineExceeded):
        confirm()
    lossy.drained()
    is_registered = lossy.store["regs"].get(GUILD) is not None
    assert is_registered == (lost == "after")
    assert (lossy.bot.waitlist.entry(GUILD, 1) is None) == is_registered
    if not is_registered:
        confirm()
    assert lossy.store["regs"].get(GUILD) == {"1": "x"}


@pytest.mark.parametrize("lost", [before, after])
@pytest.mark.parametrize("what", ["add", "add again", "update", "remove"])
def test_other_replies_are_not_missed(lossy: Lossy, lost: Callable[[str], Any], what: str) -> None:
    """Adding, updating and removing take effect once, whatever becomes of the reply, and their
    callers need not know."""
    bot = lossy.bot
    add(bot, 1, 2)
    lossy.link.script = [lost(LOST)]
    if what == "add":
        placed = add(bot, 3)
        assert (placed.position, placed.is_new) == (3, True)
    elif what == "add again":
        placed = add(bot, 1, ign="x")
        assert (placed.position, placed.is_new, placed.entry.ign) == (1, False, "x")
    elif what == "update":
        assert bot.waitlist.update(GUILD, 1, ign="x").ign == "x"
    else:
        assert bot.waitlist.remove(GUILD, 1).ign == "ign-1"
    lossy.drained()
    expected = {"add": [1, 2, 3], "remove": [2]}.get(what, [1, 2])
    assert waits(bot) == waits(lossy.other) == expected
    if what in ("add again", "update"):
        assert lossy.other.waitlist.entry(GUILD, 1).ign == "x"


def test_an_addition_whose_list_cannot_be_told(lossy: Lossy) -> None:
    """An append took effect, its reply was lost, and others went on: the place is read."""
    add(lossy.bot, 1)

    def meanwhile() -> None:
        lossy.other.waitlist.remove(GUILD, 1)

    lossy.link.script = [after(LOST, meanwhile)]
    placed = add(lossy.bot, 2)
    assert placed.is_new
    assert placed.entry.member_id == 2
    lossy.drained()
    assert waits(lossy.bot) == [2]
