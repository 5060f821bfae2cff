"""The status page in a real browser: Debian's Chromium, driven through a real outage.

Screenshots are kept in `test-output/`.  Skipped where Chromium or playwright is missing, and the
accessibility rules where axe-core is (`tools/axe.sh` gets it from npm).
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest

import standfast
from standfast.admin import evidence as evidence_module
from standfast.admin.backup.folder import backups
from standfast.admin.backup.schedule import Schedule, Scheduler
from standfast.admin.serve import watcher
from standfast.config.settings import load_settings
from standfast.engine import replicated
from standfast.system.supervision import Supervisor
from support.hold import on_primary, soon, wait_direct
from support.outage import Outage
from support.serving import TOKEN, Served, serving

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

ROOT = Path(__file__).parents[2]
SHOTS = ROOT / "test-output"
AXE = ROOT / ".venv" / "axe-core" / "package" / "axe.min.js"
CHROMIUM = shutil.which("chromium")
CANARY = "c4n4ry-7391"

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]


@pytest.fixture(autouse=True)
def prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks more often than in use."""
    monkeypatch.setattr(replicated, "SNAPSHOT_PAUSE_S", 0.02)
    monkeypatch.setattr(watcher, "FILES_PAUSE_S", 0.05)
    monkeypatch.setattr(watcher, "DATABASE_PAUSE_S", 0.1)
    monkeypatch.setattr(evidence_module, "BLOCKING_AFTER_S", 0.0)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield found
        found.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page that fails the test on an error in its script or a request to anywhere else."""
    context = browser.new_context(viewport={"width": 1100, "height": 1000})
    found = context.new_page()
    wrong: list[str] = []

    def failed(error: object) -> None:
        wrong.append(str(error))

    def logged(said: Any) -> None:
        if said.type == "error":
            wrong.append(said.text)

    def asked(request: Any) -> None:
        if "//127.0.0.1:" not in request.url and not request.url.startswith("data:"):
            wrong.append(request.url)

    found.on("pageerror", failed)
    found.on("console", logged)
    found.on("request", asked)
    yield found
    context.close()
    assert [one for one in wrong if "status of 40" not in one] == []


def sentence(page: Any, served: Served, text: str) -> str:
    """The first sentence, once it says this."""

    def says() -> str:
        page.goto(served.url)
        found = str(page.inner_text("#now"))
        return found if text in found.replace("\n", " ") else ""

    return str(soon(says, within_s=20, what=text))


def shoot(page: Any, name: str) -> None:
    """Screenshots of the page: light, dark, and as narrow as a small phone, where nothing sticks
    out; then the rules of axe-core in both colours."""
    SHOTS.mkdir(exist_ok=True)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.screenshot(path=SHOTS / f"{name}-{scheme}.png", full_page=True)
        require_accessible(page)
    page.set_viewport_size({"width": 360, "height": 740})
    page.screenshot(path=SHOTS / f"{name}-narrow.png", full_page=True)
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= 360, f"{name}: {width} px wide"
    page.set_viewport_size({"width": 1100, "height": 1000})
    page.emulate_media(color_scheme="light")


def require_accessible(page: Any) -> None:
    if not AXE.exists():
        return  # said by `test_axe_is_there`
    # Not as an element of the page: its policy forbids foreign scripts, and rightly.
    page.evaluate(AXE.read_text(encoding="utf-8") + "; 0")
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    serious = [
        (one["id"], one["help"], [node["html"][:120] for node in one["nodes"]][:3])
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
    ]
    assert serious == []


def test_axe_is_there() -> None:
    """Without axe-core the accessibility rules are not checked, and this says so."""
    if not AXE.exists():
        pytest.skip("axe-core is not installed: tools/axe.sh")


def test_the_page_through_an_outage(outage: Outage, page: Any) -> None:
    """Healthy, degraded, draining, held: the sentence of each, and no serious fault of axe-core."""
    with ExitStack() as stack:
        store = stack.enter_context(outage.store())
        served = stack.enter_context(serving(outage.url, outage.data_dir()))
        for number in range(20):
            store["persisted_views"].put(str(number), {"v": CANARY})
            store["waitlist_data"].put(str(number), {"v": CANARY})
        wait_direct(store)
        text = sentence(page, served, "nothing to do")
        assert text.startswith("safe")
        shoot(page, "healthy")
        lock = stack.enter_context(psycopg.connect(outage.url, application_name="pgadmin"))
        with outage.away():
            for number in range(7):
                store["persisted_views"].put(str(number), {"v": CANARY, "n": number})
            text = sentence(page, served, "7 write(s) are safe in the journal")
            assert text.startswith("safe")
            assert "does not answer" in text
            facts = page.inner_text(".facts").replace("\n", " ")
            assert "State journaling since" in facts
            assert "Waiting writes 7" in facts
            shoot(page, "degraded")
            lock.close()
            lock = psycopg.connect(outage_admin(outage), application_name="pgadmin")
        lock.close()
        locked = stack.enter_context(psycopg.connect(outage.url, application_name="pgadmin"))
        locked.execute("SELECT 1")
        soon(lambda: store.health().state != "journaling", within_s=20)
        wait_direct(store)
        locked.execute("SELECT * FROM persisted_views FOR UPDATE")
        store["persisted_views"].put("1", {"v": CANARY, "n": 100})
        text = sentence(page, served, "is locked by session")
        assert text.startswith("act now")
        shoot(page, "draining")
        locked.rollback()
        wait_direct(store)
        with outage.away():
            store["waitlist_data"].put("1", {"v": CANARY})
        outage.execute("ALTER TABLE waitlist_data RENAME TO gone")
        text = sentence(page, served, "waitlist_data")
        assert text.startswith("act now")
        said = page.inner_text("section[aria-labelledby=now]")
        assert "writes to waitlist_data are held, all others are sent to it" in said
        assert "being sent" not in said
        shoot(page, "held")
        assert CANARY not in page.content()
        outage.execute("ALTER TABLE gone RENAME TO waitlist_data")
        sentence(page, served, "nothing to do")
        assert "2 outage(s)" in page.content() or "outage(s) in the last 24 hours" in page.content()


def outage_admin(outage: Outage) -> str:
    return outage.url.rsplit("/", 1)[0] + "/postgres"


def test_a_conflict_is_decided_in_the_browser(outage: Outage, page: Any) -> None:
    """By keyboard alone: the token, both sides with the differing fields marked, the button; and
    the decision is in the database."""
    with outage.store() as store:
        store["views"].put("8138", {"mode": "normal", "place": 1, "list": [1, 2], "same": True})
    with outage.away(), outage.store() as store:
        store["views"].put("8138", {"mode": "doubleup", "place": 1, "list": [1], "same": True})
    with outage.store("other") as store:
        store["views"].put("8138", {"mode": "solo", "place": 2, "list": [1, 2], "same": True})
    assert outage.run("journal", "drain").code == 0
    assert on_primary(outage.url, "views")["8138"]["mode"] == "doubleup"
    with outage.store() as store, serving(outage.url, outage.data_dir()) as served:
        wait_direct(store)
        assert sentence(page, served, "1 conflict(s) wait").startswith("safe")
        soon(
            lambda: (page.goto(served.url), page.locator("a[href='/conflicts/1']").count())[1],
            within_s=15,
        )
        page.locator("a[href='/conflicts/1']").focus()
        page.keyboard.press("Enter")
        page.wait_for_selector("#token")
        page.locator("#token").focus()
        page.keyboard.type("wrong")
        page.keyboard.press("Enter")
        page.wait_for_selector("[role=alert]")
        page.locator("#token").focus()
        page.keyboard.type(TOKEN)
        page.keyboard.press("Enter")
        page.wait_for_selector("#now")
        shoot(page, "conflict-list")
        page.goto(f"{served.url}conflicts/1")
        rows = page.locator("tr.differs th code").all_inner_texts()
        assert "/mode" in rows
        assert "/same" not in rows
        shoot(page, "conflict")
        page.get_by_role("button", name="Take theirs").focus()
        page.keyboard.press("Enter")
        page.wait_for_selector("#now")
        assert on_primary(outage.url, "views")["8138"]["mode"] == "solo"
        assert store["views"].get("8138", {})["mode"] == "solo"
        sentence(page, served, "nothing to do")


def test_scheduled_backups_on_the_page(tmp_path: Path, page: Any) -> None:
    """The newest verified backup, and when the next one is due; one that was missed is the first
    sentence, with what to do."""
    place = tmp_path / "storage"
    with standfast.open(None, data_dir=place) as store:
        store["players"].put("8138", {"mode": CANARY})
    settings, daily = load_settings(None, data_dir=place), Schedule(24 * 3600.0)
    Scheduler(settings, daily, Supervisor()).turn()
    (made,) = backups(place)
    with serving(None, place) as served:
        sentence(page, served, "nothing to do")
        text = page.inner_text("section[aria-labelledby=backups]")
        assert made.path.name in text
        assert "The next one is due at" in text
        assert "ago" in page.inner_text(".facts div:has(dt:text-is('Last verified backup'))")
        shoot(page, "backup")
        Scheduler(settings, daily, Supervisor(), now=lambda: time.time() - 3 * 86400).turn()
        text = sentence(page, served, "a scheduled backup was due")
        assert text.startswith("act now")
        assert "standfast serve --backup-every HOURS" in page.inner_text(".todo")
        shoot(page, "backup-missed")


def test_the_page_renews_itself(outage: Outage, page: Any) -> None:
    """Without a click it follows; while a link has the focus it stays as it is."""
    with outage.store() as store, serving(outage.url, outage.data_dir()) as served:
        store["views"].put("a", 1)
        wait_direct(store)
        sentence(page, served, "nothing to do")
        with outage.away():
            store["views"].put("b", 2)
            page.wait_for_selector("#now:has-text('does not answer')", timeout=20_000)
            assert page.title() == "standfast: safe"
