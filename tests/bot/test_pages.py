"""What the pages say is run: every command of the guide, in order, and every block of Python."""

from __future__ import annotations

import ast
import asyncio
import json
import re
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import standfast
from standfast.bot import AsyncBotStore, BotStore
from support.cli import Ran, run_cli
from support.faulty import Link, Open, Server
from support.moving import Place

ROOT = Path(__file__).parents[2]
GUILD = 1199000000000000101
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
#: What a page's blocks use that a bot has: run before each of them, in one program per page.
PAGES = (
    "README.md",
    "docs/json_file.md",
    "docs/outages.md",
    "docs/bot_waitlist.md",
    "docs/move_your_bot.md",
)


def blocks(page: str, kind: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return [code for language, code in BLOCK.findall(text) if language == kind]


def bot_folder(place: Place) -> None:
    """The two files of a bot, in the older layout."""
    views: dict[str, Any] = {str(GUILD): {"event_mode": "normal"}, "8138": {"waitlist": []}}
    kelp = {"waitlist": [{"discord_tag": "kelp"}]}
    waitlist: dict[str, Any] = {str(GUILD): kelp, "8138": {"waitlist": []}}
    place.write("persisted_views.json", {"default": views})
    place.write("waitlist_data.json", {"default": waitlist})


@pytest.fixture
def bot(place: Place) -> Place:
    bot_folder(place)
    return place


def commands(page: str) -> list[list[str]]:
    found: list[list[str]] = []
    for block in blocks(page, "console"):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append(line.removeprefix("$ ").partition("  #")[0].split())
    return found


def test_every_command_of_the_guide_works(bot: Place) -> None:
    """docs/move_your_bot.md from an empty data directory to the way back: each command, in order,
    as it is printed; the pieces in capitals are what the text says they are."""
    ran: list[str] = []
    for program, *arguments in commands("docs/move_your_bot.md"):
        if program in ("pip", "export"):
            continue  # the package is installed, and the URL is that of this test
        assert program == "standfast"
        if "RUN" in arguments:
            runs = run_cli("runs", env=bot.env, cwd=bot.root).out
            arguments[arguments.index("RUN")] = runs.split()[0]
        if arguments[0] == "export":  # "or": of a bot that did not go back
            bot.moved(bot.root / "waitlist_data.json", split_default=True)
        done = run_cli(*arguments, env=bot.env, cwd=bot.root)
        assert done.code == 0 or arguments[0] == "doctor", (arguments, done.said)
        _check(arguments[0], done, bot)
        ran.append(arguments[0])
    assert ran == [
        *("plan", "migrate", "runs", "list", "get", "doctor", "status", "rollback", "export")
    ]


def _check(command: str, done: Ran, bot: Place) -> None:
    """That each command showed what the guide says it does."""
    if command == "plan":
        assert "--split-default" in done.err
        assert bot.json_files() == ["persisted_views.json", "waitlist_data.json"]
    elif command == "migrate":
        assert "all equal" in done.err
        assert bot.json_files() == []
        assert list(bot.documents("waitlist_data")) == [str(GUILD), "8138"]
    elif command == "list":
        assert str(GUILD) in done.out
    elif command == "get":
        assert json.loads(done.out) == {"waitlist": [{"discord_tag": "kelp"}]}
    elif command == "rollback":
        assert bot.json_files() == ["persisted_views.json", "waitlist_data.json"]


def test_every_command_of_the_readme_works(bot: Place) -> None:
    """The README's moves: the folder planned, moved and rolled back; then what shows its state."""
    ran: list[str] = []
    for program, *arguments in commands("README.md"):
        if program != "standfast":
            assert program in ("make", "pip", "export")
            continue
        if arguments == ["migrate", "."]:
            arguments.append("--yes")  # the answer that it asks for
        if "RUN" in arguments:
            arguments[1] = run_cli("runs", env=bot.env, cwd=bot.root).out.split()[0]
        done = run_cli(*arguments, env=bot.env, cwd=bot.root)
        assert done.code == 0 or arguments[0] == "doctor", done.said
        ran.append(arguments[0])
    assert ran == ["plan", "migrate", "rollback", "status", "doctor", "conflicts"]


def test_the_quickstart_works(pg_database: str, tmp_path: Path, monkeypatch: Any) -> None:
    """docs/quickstart.md in an empty folder: the file as it is shown, each command in order, both
    blocks of Python; then the same code on PostgreSQL, with what was stored before."""
    monkeypatch.chdir(tmp_path)
    page = "docs/quickstart.md"
    (content,) = blocks(page, "json")
    (tmp_path / "views.json").write_text(content, encoding="utf-8")
    ran: list[str] = []

    def run(these: list[list[str]]) -> None:
        for program, *arguments in these:
            if program == "standfast":
                arguments += ["--yes"] if arguments == ["promote"] else []
                done = run_cli(*arguments, cwd=tmp_path)
                assert done.code == 0, (arguments, done.said)
                _check_shown(shown.get(" ".join(arguments), []), done)
                ran.append(arguments[0])

    found, shown = commands(page), outputs(page)
    change = found.index(["export", "DATABASE_URL=postgresql://user:password@host/db"])
    run(found[:change])
    for block in blocks(page, "python"):
        exec(block, {"__name__": "block"})
    monkeypatch.setenv("DATABASE_URL", pg_database)
    run(found[change:])
    assert ran == ["plan", "migrate", "list", "promote"]
    with standfast.open() as store:
        views = dict(store["views"].items())
    assert views.pop("8140") == {
        "event_mode": "doubleup",
        "waitlist": [{"member_id": 42}],
        "games": 1,
    }
    assert views == json.loads(content)
    for block in blocks(page, "python")[1:]:
        exec(block, {"__name__": "block"})
    with standfast.open() as store:
        assert store["views"].get("8140", {})["games"] == 2


def outputs(page: str) -> dict[str, list[str]]:
    """The commands whose output a page shows, with its lines."""
    found: dict[str, list[str]] = {}
    for block in blocks(page, "console"):
        for command in re.split(r"^\$ standfast ", block, flags=re.MULTILINE)[1:]:
            words, *lines = command.splitlines()
            if lines and not lines[0].startswith("$ "):
                found[words] = lines
    return found


def _check_shown(lines: list[str], done: Ran) -> None:
    """That each line is among those printed; what differs from run to run may differ."""

    def alike(line: str) -> str:
        line = re.sub(r"\d{8}-\d{6}-[0-9a-f]{8}", "RUN", line)
        return re.sub(r"sqlite:\S+(?=/storage/)", "sqlite:///...", line)

    printed = [alike(line) for line in (done.err + done.out).splitlines()]
    assert [line for line in map(alike, lines) if line not in printed and line != "..."] == []


def test_what_pages_show_of_commands_is_what_these_print(place: Place) -> None:
    """docs/outages.md: the rows of `status` and the checks of `doctor`, in their order, with the
    present version of the schema; the columns of the journal and of the conflicts."""
    shown = outputs("docs/outages.md")
    assert {*shown} == {
        *("status", "doctor", "journal list", "doctor --adopt"),
        *("conflicts list", "conflicts show 1"),
    }
    if place.postgres_url is None:
        return  # the page is about PostgreSQL
    with standfast.open(place.url, data_dir=place.data_dir) as store:
        store["views"].put("8138", {"mode": "normal"})
    status = run_cli("status", env=place.env).out.splitlines()
    doctor = run_cli("doctor", env=place.env).out.splitlines()
    row = re.compile(r"^(wrote here|\w+) +")
    check = re.compile(r"^(?:ok|warn|fail) +(\S+(?: \S+)*?)  ")
    for pattern, lines, command in ((row, status, "status"), (check, doctor, "doctor")):
        page, printed = (
            [
                found[1]
                for line in each[each.index("") + 1 if "" in each[:-1] else 0 :]
                if (found := pattern.match(line))
            ]
            for each in (shown[command], lines)
        )
        assert page == printed, command
    for version in (r"schema (\d+ of \d+)", r"schema +version (\d+ of \d+)"):
        texts = ["\n".join(each) for each in (*shown.values(), status, doctor)]
        assert len({number for text in texts for number in re.findall(version, text)}) == 1


class Sheet:
    """A registration of the user's own."""

    def capacity(self, guild: Any) -> int:
        return 1

    def registered(self, guild: Any) -> dict[str, str]:
        return {}

    teams = registered

    def register(self, guild: Any, entry: Any) -> None: ...


class Thing:
    """Something with an id and a name, as Discord's objects have them."""

    def __init__(self, id: int, name: str = "otter") -> None:
        self.id = id
        self.name = name


def surroundings(page: str, store: Any) -> dict[str, Any]:
    """What the bot has around the blocks of a page."""

    def register(batch: Any, entry: Any) -> None:
        batch.put("registrations", str(entry.member_id), {"team": entry.team_name})

    return {
        "standfast": standfast,
        "store": store,
        "waitlist_file": standfast.JsonFile("waitlist_data.json"),
        "entry": {"member_id": 42},
        "guild": Thing(GUILD),
        "user": Thing(81),
        "guild_id": GUILD,
        "channel_id": 1199000000000000201,
        "message_id": 1199000000000000301,
        "who_is_registered": dict[str, Any],
        "register": register,
    }


#: The blocks that show an outage; `test_what_pages_show_of_an_outage` runs them in one.
OUTAGE = "store = standfast.open()  # DATABASE_URL names PostgreSQL"


@pytest.mark.parametrize("page", ["README.md", "docs/json_file.md"])
def test_the_python_of_a_page_runs(page: str, bot: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every block, in order, in one program, in a bot's folder whose files were moved.  Where a
    block shows an error, its comment names it, and that error is raised."""
    monkeypatch.chdir(bot.root)
    for name, value in bot.env.items():
        monkeypatch.setenv(name, value)
    bot.write("waitlist_data.json", {"8138": {"waitlist": [], "count": 1}})
    bot.moved(bot.root / "waitlist_data.json")
    store = standfast.open()
    names = surroundings(page, store)
    found = [block for block in blocks(page, "python") if not block.startswith(OUTAGE)]
    for block in found:
        if "async with" in block:
            exec(f"async def block():\n{textwrap.indent(block, '    ')}", names)
            asyncio.run(names["block"]())
            continue
        for statement in _statements(block):
            _execute(statement, names)
        names["store"] = store
    store.close()


def test_what_pages_show_of_an_outage(memory: Server, open_it: Open) -> None:
    """README and outages.md: what each call returns or raises while the primary is away."""
    shown = [
        block
        for page in ("README.md", "docs/outages.md")
        for block in blocks(page, "python")
        if block.startswith(OUTAGE)
    ]
    assert len(shown) == 2
    for block in shown:
        link = Link(memory)
        store, _ = open_it(link)
        assert store["views"].put("8138", {}).durable_on == "primary"
        store["persisted_views"].put("8138", {})
        link.down = True
        names: dict[str, Any] = {"store": store}
        views = store["persisted_views"]
        names["views"] = views
        for statement in _statements(block.partition("\n")[2]):
            if "Unavailable(" in statement:
                code = re.search(r'Unavailable\("(\w+)"\)', statement)
                assert code is not None
                with pytest.raises(standfast.Unavailable) as caught:
                    exec(statement, names)
                assert caught.value.code == code[1]
            elif ".put(" in statement:
                assert eval(statement, names).durable_on == "journal"
            else:
                exec(statement, names)
        found = views.read("8138")
        if "source=" in block:
            assert found is not None
            assert found.source == "mirror"
        store.close()


def _statements(block: str) -> Iterator[str]:
    """The statements of a block with their comments; those of its first `with` one by one."""
    tree = ast.parse(block)
    lines = block.splitlines()
    for node in tree.body:
        assert node.end_lineno is not None
        yield "\n".join(lines[node.lineno - 1 : node.end_lineno])


def _execute(statement: str, names: dict[str, Any]) -> None:
    """Run one statement; one whose comment begins with an error's name raises that error, which a
    `with` block shows for one of its lines."""
    shown = re.search(r"# (ConflictError|Unavailable)", statement)
    if shown is None:
        exec(statement, names)
        return
    error = getattr(standfast, shown[1])
    line = next(line for line in statement.splitlines() if shown[0] in line)
    raising, _, _ = line.strip().partition("  #")
    names["pytest"], names["error"] = pytest, error
    indent = line[: len(line) - len(line.lstrip())]
    replaced = f"{indent}with pytest.raises(error):\n{indent}    {raising}"
    exec(statement.replace(line, replaced), names)


def test_the_loop_of_the_errors_page_tries_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/errors.md: what is retryable is tried again, anything else is raised at once."""
    (loop,) = blocks("docs/errors.md", "python")
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)

    class Views:
        """A collection whose writes fail in turn."""

        def __init__(self, *errors: Exception | None) -> None:
            self.errors = list(errors)

        def put(self, key: str, value: object) -> None:
            if (error := self.errors.pop(0)) is not None:
                raise error

    away = standfast.Unavailable("away", code="journal_full", hint="wait")
    wrong = standfast.DataError("wrong", code="not_json", hint="mend it")
    views = Views(away, away, None)
    exec(loop, {"standfast": standfast, "time": time, "views": views})
    assert (views.errors, waits) == ([], [1, 2])
    with pytest.raises(standfast.DataError):
        exec(loop, {"standfast": standfast, "time": time, "views": Views(wrong, None)})


def test_the_python_of_the_operations_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """docs/operations.md: the hooks, the mounted page, the observed store."""
    pytest.importorskip("starlette")
    pytest.importorskip("opentelemetry")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STANDFAST_TOKEN", "0123456789abcdef")
    monkeypatch.delenv("DATABASE_URL", raising=False)
    hooks, mounted, observed = blocks("docs/operations.md", "python")
    exec(hooks, {})
    exec(mounted, {})
    with standfast.open() as store:
        exec(observed, {"store": store})


def test_the_waitlist_page_runs(bot: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/bot_waitlist.md: what is added is promoted, registered, and off the list."""
    monkeypatch.chdir(bot.root)
    add, promote = blocks("docs/bot_waitlist.md", "python")

    with standfast.open(bot.url, data_dir=bot.data_dir) as blocking:
        names = surroundings("docs/bot_waitlist.md", blocking)
        exec(add, names)
        assert names["added"].position == 1

    async def run() -> None:
        async with standfast.open_async(bot.url, data_dir=bot.data_dir) as store:
            names = surroundings("docs/bot_waitlist.md", store)
            names["bot"] = AsyncBotStore(store)
            body = textwrap.indent(promote, "    ")
            exec(f"async def block():\n{body}\n    return claims", names)
            claims = await names["block"]()
            assert [claim.entry.ign for claim in claims] == ["Kelp"]
            assert await store["registrations"].get(GUILD) == {"81": {"team": "Deep Sea"}}

    asyncio.run(run())
    (document,) = blocks("docs/bot_waitlist.md", "json")
    with standfast.open(bot.url, data_dir=bot.data_dir) as store:
        store["waitlist_data"].put(str(GUILD), json.loads(document))
        (entry,) = BotStore(store).waitlist.entries(GUILD)
        assert entry.discord_tag == "kelp"


def test_the_python_of_the_guide_runs(bot: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/move_your_bot.md: the two functions read and write what was moved; the mixin's bot has
    its view registered.  (The block on whole modules is run in the drop-in's own folder.)"""
    discord = pytest.importorskip("discord")
    from discord.ext import commands

    monkeypatch.chdir(bot.root)
    for name, value in bot.env.items():
        monkeypatch.setenv(name, value)
    bot.moved(bot.root / "waitlist_data.json", split_default=True)
    two_lines, modules, views = blocks("docs/move_your_bot.md", "python")
    names: dict[str, Any] = {}
    exec(two_lines, names)
    data = names["load_waitlist"]()
    data["8138"]["waitlist"].append({"discord_tag": "new"})
    names["save_waitlist"](data)
    assert bot.documents("waitlist_data")["8138"] == {"waitlist": [{"discord_tag": "new"}]}
    assert "use_registration" in modules

    class RegistrationView(discord.ui.View): ...

    names = {"commands": commands, "discord": discord, "RegistrationView": RegistrationView}
    exec(views, names)
    assert isinstance(names["bot"], commands.Bot)
