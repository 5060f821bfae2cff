"""`serve`: probes, metrics and the page, and who may ask for what."""

from __future__ import annotations

import random
import time
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from standfast import ConfigError
from standfast.admin.serve import create_app, watcher
from standfast.engine import replicated
from support.cli import run_cli
from support.cluster import Cluster
from support.faulty import eventually
from support.hold import on_primary, soon, wait_direct
from support.outage import Outage
from support.serving import TOKEN, Served, serving

CANARY = "c4n4ry-7391"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.fixture(autouse=True)
def prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks more often than in use."""
    monkeypatch.setattr(replicated, "SNAPSHOT_PAUSE_S", 0.02)
    monkeypatch.setattr(watcher, "FILES_PAUSE_S", 0.05)
    monkeypatch.setattr(watcher, "DATABASE_PAUSE_S", 0.1)


def conflict(outage: Outage) -> None:
    """A conflict between this data directory and another one."""
    with outage.store() as store:
        store["views"].put("a", {"same": 1, "v": "base"})
    with outage.away(), outage.store() as store:
        store["views"].put("a", {"same": 1, "v": f"mine {CANARY}"})
    with outage.store("other") as store:
        store["views"].put("a", {"same": 1, "v": f"theirs {CANARY}"})
    assert outage.run("journal", "drain").code == 0


def status(served: Served) -> dict[str, Any]:
    import json

    found = served.ask("/status.json")
    assert found.status == 200
    return json.loads(found.body)


# ---- what it shows


def test_a_store_in_order(outage: Outage) -> None:
    """Probes, status, metrics and page of a healthy store; no contents anywhere."""
    with outage.store() as store, serving(outage.url, outage.data_dir()) as served:
        for number in range(5):
            store["views"].put(str(number), {"v": CANARY})
        store["views"].get("1")
        soon(lambda: status(served)["headline"].startswith("safe, nothing to do"), within_s=15)
        assert served.ask("/livez").status == 200
        assert served.ask("/readyz").body == "ready\n"
        page = served.ask("/")
        assert page.status == 200
        assert "<span>safe</span> nothing to do: every write is on the database" in page.body
        assert "default-src 'none'" in page.headers["content-security-policy"]
        soon(lambda: "views" in served.ask("/").body, within_s=15)
        found = soon(
            lambda: metric(served, "standfast_writes_total", durable_on="primary"), within_s=15
        )
        assert found == 5.0
        assert (
            CANARY not in page.body + served.ask("/metrics").body + served.ask("/status.json").body
        )
        assert store  # open until here


def metrics(served: Served) -> dict[str, Any]:
    """The families by their names, read by the client's own parser."""
    answer = served.ask("/metrics")
    assert answer.status == 200
    return {family.name: family for family in text_string_to_metric_families(answer.body)}


def metric(served: Served, name: str, **labels: str) -> float:
    for family in metrics(served).values():
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                return float(sample.value)
    return 0.0


def test_metrics_of_an_outage(outage: Outage) -> None:
    """Every metric is read by prometheus-client's own parser, and histograms add up."""
    with outage.store() as store, serving(outage.url, outage.data_dir()) as served:
        wait_direct(store)
        store["views"].put("a", 1)
        with outage.away():
            store["views"].put("b", {"v": CANARY})
            soon(lambda: metric(served, "standfast_pending_writes") == 1, within_s=15)
            soon(lambda: metric(served, "standfast_primary_up") == 0, within_s=15)
            soon(
                lambda: metric(served, "standfast_writes_total", durable_on="journal") == 1,
                within_s=15,
            )
            assert metric(served, "standfast_state", state="journaling") == 1
            assert metric(served, "standfast_outages_total") == 1
            assert metric(served, "standfast_pending_age_seconds") > 0
            assert served.ask("/readyz").status == 200
            assert "next try" in served.ask("/").body
        wait_direct(store)
        soon(lambda: metric(served, "standfast_state", state="direct") == 1, within_s=15)
        family = metrics(served)["standfast_write_duration_seconds"]
        buckets = [one.value for one in family.samples if one.name.endswith("_bucket")]
        (count,) = [one.value for one in family.samples if one.name.endswith("_count")]
        assert buckets == sorted(buckets)
        assert buckets[-1] == count == 2
        assert metric(served, "standfast_documents", collection="views") >= 1


def test_probes_answer_at_once_while_the_primary_hangs(tmp_path: Path) -> None:
    """A frozen server holds up neither probe: each is answered long before its deadline."""
    with Cluster() as cluster:
        outage = Outage(cluster.url(), tmp_path)
        with outage.store() as store:
            store["views"].put("a", 1)
        cluster.freeze()
        try:
            with serving(outage.url, outage.data_dir()) as served:

                def took_s(path: str, status: int) -> float:
                    begun = time.monotonic()
                    assert served.ask(path).status == status
                    return time.monotonic() - begun

                paths = ("/livez", "/readyz") * 10
                took = [(took_s(path, 200), took_s("/nothing", 404)) for path in paths]
                # The deadline of a call is 1 s, the limit of a connection 10 s; what the machine
                # needs for an answer shows where nothing is looked at.
                assert median(probe - nothing for probe, nothing in took) < 0.5
        finally:
            cluster.thaw()


def test_not_ready(outage: Outage, monkeypatch: pytest.MonkeyPatch) -> None:
    """503 where a write would not be safe anywhere: the primary away, and no journal."""
    with outage.store() as store:
        store["views"].put("a", 1)
    with outage.away(), serving(outage.url, outage.data_dir()) as served:
        soon(lambda: served.ask("/readyz").status == 200, within_s=15)
        monkeypatch.setattr("standfast.admin.serve.app.os.access", lambda *_: False)
        answer = served.ask("/readyz")
        assert (answer.status, answer.body) == (503, "the journal cannot be written\n")


def test_mounted_in_another_app(outage: Outage) -> None:
    """Under a prefix the page, its files and its links work the same."""
    with outage.store() as store:
        store["views"].put("a", 1)
    with serving(outage.url, outage.data_dir(), prefix="/state") as served:
        page = soon(lambda: served.ask("/"), within_s=15)
        assert page.status == 200
        assert 'href="/state/style.css"' in page.body
        for path in ("/style.css", "/page.js", "/livez", "/login"):
            assert served.ask(path).status == 200
        answer = served.ask(
            "/login",
            method="POST",
            body=f"token={TOKEN}".encode(),
            headers={**FORM, "Origin": f"http://127.0.0.1:{served.port}"},
        )
        assert (answer.status, answer.headers["location"]) == (303, "/state/")
        assert "path=/state/" in answer.headers["set-cookie"].lower()


# ---- who may ask


def test_contents_and_decisions_need_the_token(outage: Outage) -> None:
    """Without it nothing of a conflict is shown or decided; with it the decision takes effect."""
    conflict(outage)
    with serving(outage.url, outage.data_dir()) as served:
        same = {"Origin": f"http://127.0.0.1:{served.port}"}
        soon(lambda: "/conflicts/1" in served.ask("/").body, within_s=15)
        assert CANARY not in served.ask("/").body
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Cookie": "standfast=x"}):
            answer = served.ask("/conflicts/1", headers=headers)
            assert answer.status == 401
            assert CANARY not in answer.body
        body = b"take=mine&version=3"
        post = served.ask("/conflicts/1", method="POST", body=body, headers=FORM | same)
        assert post.status == 401
        # The token alone is not enough for a browser: the form must be ours.
        cookie = login(served)
        for foreign in ({}, {"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
            headers = FORM | cookie | foreign
            assert (
                served.ask("/conflicts/1", method="POST", body=body, headers=headers).status == 403
            )
        assert on_primary(outage.url, "views")["a"]["v"].startswith("mine")
        page = served.ask("/conflicts/1", headers=cookie)
        assert f"theirs {CANARY}" in page.body
        assert page.body.count("differs</span>") == 1
        version = page.body.split('name="version" value="')[1].split('"')[0]
        stale = served.ask(
            "/conflicts/1",
            method="POST",
            body=b"take=theirs&version=1",
            headers=FORM | cookie | same,
        )
        assert stale.status == 409
        body = f"take=theirs&version={version}".encode()
        done = served.ask("/conflicts/1", method="POST", body=body, headers=FORM | cookie | same)
        assert done.status == 303
        assert on_primary(outage.url, "views")["a"]["v"].startswith("theirs")
        assert served.ask("/conflicts/99", headers=cookie).status == 404


def test_names_are_text_and_not_markup(outage: Outage) -> None:
    """Whatever a key or a value is called, it cannot become a part of the page."""
    evil = "<script>alert(1)</script>\"'&"
    with outage.store() as store:
        store["views"].put(evil, {evil: 0})
    with outage.away(), outage.store() as store:
        store["views"].put(evil, {evil: 1})
    with outage.store("other") as store:
        store["views"].put(evil, {evil: 2})
    assert outage.run("journal", "drain").code == 0
    with serving(outage.url, outage.data_dir()) as served:
        page = soon(
            lambda: found if "/conflicts/1" in (found := served.ask("/")).body else None,
            within_s=15,
        )
        both = page.body + served.ask("/conflicts/1", headers=login(served)).body
        assert "<script>alert" not in both
        assert both.count("&lt;script&gt;alert(1)&lt;") >= 3


def login(served: Served) -> dict[str, str]:
    """The cookie of who has given the token."""
    headers = FORM | {"Origin": f"http://127.0.0.1:{served.port}"}
    wrong = served.ask("/login", method="POST", body=b"token=wrong", headers=headers)
    assert (wrong.status, "set-cookie" in wrong.headers) == (403, False)
    right = served.ask("/login", method="POST", body=f"token={TOKEN}".encode(), headers=headers)
    assert right.status == 303
    assert {"httponly", "samesite=strict"} <= {
        part.strip().lower() for part in right.headers["set-cookie"].split(";")
    }
    return {"Cookie": right.headers["set-cookie"].split(";")[0]}


@pytest.fixture
def served(tmp_path: Path) -> Any:
    """The status of an embedded store."""
    run_cli("put", "views", "a", "1", cwd=tmp_path)
    with serving(None, tmp_path / "storage") as found:
        eventually(lambda: found.ask("/status.json").status == 200)
        yield found


def test_an_embedded_store(served: Served, tmp_path: Path) -> None:
    """Its file is shown, whatever looks at it changes no time; what cannot be known is not 0."""
    soon(lambda: metric(served, "standfast_documents", collection="views") == 1, within_s=15)
    path = tmp_path / "storage" / "fallback.db"
    changed = "standfast_database_file_changed_timestamp_seconds"
    assert metric(served, "standfast_database_file_bytes") >= path.stat().st_size
    before = metric(served, changed)
    assert before == pytest.approx(path.stat().st_mtime)
    looked = metric(served, "standfast_looked_at_seconds")
    soon(lambda: metric(served, "standfast_looked_at_seconds") > looked + 4, within_s=15)
    assert metric(served, changed) == before
    assert not {"standfast_processes", "standfast_writes"} & set(metrics(served))
    assert "the processes of an embedded database write no reports" in served.ask("/").body
    run_cli("put", "views", "b", "1", cwd=tmp_path)
    soon(lambda: metric(served, changed) > before, within_s=15)


def test_beyond_this_machine_the_token_is_needed(served: Served) -> None:
    """Behind a proxy, or under another name, nothing is shown without it."""
    for path in ("/", "/status.json", "/metrics", "/livez", "/readyz"):
        assert served.ask(path).status == 200
        forwarded = {"X-Forwarded-For": "203.0.113.7"}
        assert served.ask(path, headers=forwarded).status == 401
        assert served.ask(path, headers=forwarded | BEARER).status == 200
    page = served.ask("/", headers={"X-Forwarded-For": "203.0.113.7", "Accept": "text/html"})
    assert (page.status, "The token, please" in page.body) == (401, True)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 400),
        ({"Host": "127.0.0.1.evil.example:80"}, 400),
        ({"Host": "user@127.0.0.1"}, 400),
        ({"Host": ""}, 400),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
def test_foreign_hosts_and_origins(served: Served, headers: dict[str, str], status: int) -> None:
    """A page of another site, or a name that is pointed here, is refused."""
    for path in ("/", "/status.json", "/livez"):
        assert served.ask(path, headers=headers).status == status


def test_malformed_requests(served: Served) -> None:
    """Traversal, odd methods, oversized and malformed requests: 4xx each, and it goes on."""
    for path in (
        "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/static/style.css",
        "/a" * 50,
        "/conflicts/-1",
        "/conflicts/1.5",
        "/conflicts/x",
        "/style.css/../app.py",
    ):
        assert served.ask(path, headers=BEARER).status == 404, path
    assert served.ask("/conflicts/" + "9" * 30, headers=BEARER).status == 404
    assert served.ask("/?" + "a" * 3000).status == 414
    for method in ("POST", "PUT", "DELETE", "TRACE", "FOO"):
        assert served.ask("/status.json", method=method).status == 405
    large = served.ask("/login", method="POST", body=b"x" * 20_000, headers=FORM | BEARER)
    assert large.status == 413
    assert served.ask("/login", method="POST", body=b"{}", headers=BEARER).status == 415
    same = {"Origin": f"http://127.0.0.1:{served.port}"}
    assert served.ask("/login", method="POST", body=b"\xff=", headers=FORM | same).status == 400
    head = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"a" * 40_000 + b"\r\n\r\n"
    assert served.raw(head).startswith(b"HTTP/1.1 4")
    chunked = (
        b"POST /login HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n"
        b"Content-Type: application/x-www-form-urlencoded\r\n\r\n"
    )
    assert served.raw(chunked + b"5\r\nhello\r\n0\r\n\r\n").startswith(b"HTTP/1.1 411")
    assert served.raw(b"\x16\x03\x01\x02\x00\x01" * 100).startswith(b"HTTP/1.1 400")
    assert served.ask("/livez").status == 200


def fuzzed(random_: random.Random) -> bytes:
    """A request that is a little, or very, wrong."""
    good = (
        b"POST /conflicts/1 HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: http://127.0.0.1\r\n"
        b"Cookie: standfast=" + b"a" * 64 + b"\r\nContent-Length: 19\r\n"
        b"Content-Type: application/x-www-form-urlencoded\r\nConnection: close\r\n\r\n"
        b"take=mine&version=1"
    )
    data = bytearray(good)
    for _ in range(random_.randrange(1, 12)):
        at = random_.randrange(len(data))
        what = random_.randrange(4)
        if what == 0:
            data[at] = random_.randrange(256)
        elif what == 1:
            del data[at : at + random_.randrange(1, 20)]
        elif what == 2:
            data[at:at] = random_.randbytes(random_.randrange(1, 40))
        else:
            data[at:at] = data[at : at + 30]
        if not data:
            data = bytearray(b"\n")
    return bytes(data)


def fuzz(served: Served, count: int, seed: int) -> None:
    random_ = random.Random(seed)
    for number in range(count):
        answer = served.raw(fuzzed(random_), timeout_s=2.0)
        assert answer == b"" or answer.startswith(b"HTTP/1.1 "), (seed, number)
        assert not answer.startswith(b"HTTP/1.1 5"), (seed, number, answer[:200])
    assert served.ask("/livez").status == 200


def test_fuzzed_requests(served: Served) -> None:
    """500 mutated requests: no answer is a server error, and it goes on answering."""
    fuzz(served, 500, seed=1)


@pytest.mark.slow
def test_many_fuzzed_requests(served: Served) -> None:
    """20,000 mutated requests, as above."""
    fuzz(served, 20_000, seed=2)


# ---- the command


def test_the_command_refuses_to_be_open_to_all(tmp_path: Path) -> None:
    """Listening beyond this machine without a token, or with a weak one: exit 2 with a hint."""
    ran = run_cli("serve", "--host", "0.0.0.0", cwd=tmp_path)
    assert (ran.code, "STANDFAST_TOKEN" in ran.err) == (2, True)
    ran = run_cli("serve", "--host", "0.0.0.0", cwd=tmp_path, env={"STANDFAST_TOKEN": "short"})
    assert (ran.code, "openssl rand" in ran.err, "short" in ran.err) == (2, True, False)
    ran = run_cli("serve", "--token-file", "nosuch", cwd=tmp_path)
    assert (ran.code, "cannot be read" in ran.err) == (2, True)
    with pytest.raises(ConfigError):
        create_app(token="short", data_dir=tmp_path)
