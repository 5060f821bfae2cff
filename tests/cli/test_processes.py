"""What only a process of its own can prove: signals, pipes that break, terminals, locales."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import urllib.request

import pytest

from support.cli import run_cli
from support.moving import Place

pytestmark = pytest.mark.process

STANDFAST = [sys.executable, "-m", "standfast"]
DOCUMENTS = 20_000


WAITS_AT_STDIN = """
import sys
from standfast.cli.main import run_command
class Stdin:
    class buffer:
        def read():
            print("waiting", file=sys.stderr, flush=True)
            return sys.__stdin__.buffer.read()
sys.stdin = Stdin
sys.exit(run_command(sys.argv[1:]))
"""
WAITS_AT_STEP = """
import os, sys
from standfast.cli import migrate
from standfast.cli.main import run_command
tell = migrate._announce_step
def tell_and_wait(step, what):
    tell(step, what)
    if step == os.environ["WAIT_AT"]:
        sys.stdin.read()
migrate._announce_step = tell_and_wait
sys.exit(run_command(sys.argv[1:]))
"""


def start(
    place: Place, *arguments: str, code: str | None = None, **env: str
) -> subprocess.Popen[bytes]:
    """A command with pipes on all three streams, or a program that runs it in its own way."""
    return subprocess.Popen(
        [*([sys.executable, "-c", code] if code else STANDFAST), *arguments],
        cwd=place.root,
        env=os.environ | place.env | env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def read_until(process: subprocess.Popen[bytes], word: bytes) -> bytes:
    """What stderr says up to a word; its end is an error."""
    assert process.stderr is not None
    said = b""
    while not said.endswith(word):
        byte = process.stderr.read(1)
        assert byte, said
        said += byte
    return said


def ends(process: subprocess.Popen[bytes]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out.decode(), err.decode()


# ---- Ctrl-C


def test_ctrl_c_at_the_question(place: Place) -> None:
    """SIGINT while the question waits: exit 130, nothing changed."""
    place.write("views.json", {"a": 1})
    before = place.snapshot()
    process = start(place, "migrate", ".")
    read_until(process, b"[y/N]: ")
    process.send_signal(signal.SIGINT)
    code, out, err = ends(process)
    assert (code, out) == (130, "")
    assert "error: interrupted" in err
    assert place.snapshot() == before


def test_ctrl_c_while_stdin_is_read(embedded: Place) -> None:
    """SIGINT while a value is awaited on stdin: exit 130, nothing is created."""
    process = start(embedded, "put", "views", "k", code=WAITS_AT_STDIN)
    read_until(process, b"waiting\n")
    process.send_signal(signal.SIGINT)
    assert ends(process)[0] == 130
    assert not embedded.data_dir.exists()


@pytest.mark.parametrize("step", ["plan", "backup", "load", "verify", "clean up"])
def test_ctrl_c_in_the_middle_of_a_migration(place: Place, step: str) -> None:
    """SIGINT at any step: exit 130; the same command again brings it to its end."""
    content = {"a": {"x": 1}, "b": 2}
    path = place.write("views.json", content)
    original = path.read_bytes()
    process = start(place, "migrate", "views.json", code=WAITS_AT_STEP, WAIT_AT=step)
    read_until(process, step.encode() + b": ")
    read_until(process, b"\n")
    process.send_signal(signal.SIGINT)
    code, out, err = ends(process)
    assert (code, out) == (130, "")
    assert "run the same command again" in err
    assert path.read_bytes() == original
    assert place.backend.count("views") == (2 if step in ("verify", "clean up") else 0)
    assert_comes_to_its_end(place, content)


def test_ctrl_c_at_any_moment(place: Place) -> None:
    """SIGINT inside the drivers: wherever it strikes, nothing is lost and nothing is halved."""
    content = {str(number): {"n": number} for number in range(DOCUMENTS)}
    place.write("views.json", json.dumps(content))
    process = start(place, "migrate", "views.json")
    read_until(process, b"load: ")
    process.send_signal(signal.SIGINT)
    # It may have been done before the signal came; -2 is one that meets an interpreter at its end.
    assert ends(process)[0] in (130, 0, -signal.SIGINT)
    assert place.backend.count("views") in (0, DOCUMENTS)
    assert_comes_to_its_end(place, content)


def assert_comes_to_its_end(place: Place, content: object) -> None:
    ran = run_cli("migrate", "views.json", "--json", cwd=place.root, env=place.env)
    assert (ran.code, ran.err) == (0, "")
    assert place.documents("views") == content
    assert place.json_files() == []


# ---- pipes


def shell(place: Place, command: str) -> subprocess.CompletedProcess[str]:
    standfast = " ".join(STANDFAST)
    return subprocess.run(
        ["bash", "-c", "set -o pipefail; " + command.replace("standfast", standfast)],
        cwd=place.root,
        env=os.environ | place.env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    "command",
    [
        "standfast export views | head -n 1",
        "standfast list views --limit 10000 | head -n 1",
        "standfast list views --limit 10000 --json | head -n 1",
        "standfast get views big | head -c 1",
        "standfast schema sql | head -n 1",
        "standfast migrate --help | head -n 1",
    ],
)
def test_a_reader_that_goes_away_is_no_error(embedded: Place, command: str) -> None:
    """`| head -n 1` ends the command quietly: exit 0, no traceback."""
    content = {"x" * 50 + str(number): "y" * 100 for number in range(9_000)}
    embedded.moved(embedded.write("views.json", content | {"big": ["z" * 1_000_000]}))
    done = shell(embedded, command)
    assert (done.returncode, done.stderr) == (0, "")
    assert 0 < len(done.stdout) < 1000


def test_a_migration_goes_on_when_nobody_reads_what_it_says(embedded: Place) -> None:
    """`2>&1 | head -n 1` takes the listener away, not the work: everything is migrated."""
    embedded.write("views.json", {"a": 1})
    done = shell(embedded, "standfast migrate views.json 2>&1 | (read line; echo $line)")
    assert done.stdout == "scan: reading views.json\n"
    assert (done.returncode, done.stderr) == (0, "")
    assert embedded.documents("views") == {"a": 1}
    assert embedded.json_files() == []


def test_an_error_keeps_its_exit_code_when_nobody_reads_it(embedded: Place) -> None:
    """The exit code tells the truth also when stdout and stderr are closed pipes."""
    embedded.write("bad.json", "{")
    for flag in ("", "--json"):
        done = shell(embedded, f"standfast migrate bad.json {flag} 2>&1 | true; exit $PIPESTATUS")
        assert done.returncode == 4, done.stderr


@pytest.mark.parametrize("size", [10, 1_000_000])
def test_an_output_that_cannot_be_written_is_an_error(embedded: Place, size: int) -> None:
    """A full disk behind stdout: exit 2 and a sentence, never a success with half the data."""
    embedded.moved(embedded.write("views.json", {"a": "x" * size}))
    for command in ("export views", "get views a", "list", "runs --json", "list views --json"):
        done = shell(embedded, f"standfast {command} > /dev/full")
        assert done.returncode == 2, command
        assert done.stderr.startswith("error: the output cannot be written: No space left")
    done = shell(embedded, "standfast get my-views a --json > /dev/full")
    assert (done.returncode, done.stderr[:17]) == (2, "error: 'my-views'")


def test_documents_travel_through_pipes(embedded: Place) -> None:
    """`get | put` copies a document, and `export` feeds other programs."""
    embedded.moved(embedded.write("views.json", {"a": {"é": [1, 2]}}))
    done = shell(
        embedded, "standfast get views a | standfast put copies b && standfast export copies"
    )
    assert done.returncode == 0
    assert json.loads(done.stdout) == {"b": {"é": [1, 2]}}


def test_output_is_utf8_whatever_the_locale(embedded: Place) -> None:
    """JSON on stdout is UTF-8, also where the locale says Latin-1 or ASCII."""
    embedded.moved(embedded.write("views.json", {"é": "中\U0001f600"}))
    expected = '{\n"é":"中\U0001f600"\n}\n'.encode()
    for encoding in ("latin-1", "ascii"):
        process = start(embedded, "export", "views", PYTHONIOENCODING=encoding)
        out, err = process.communicate()
        assert (process.returncode, out, err) == (0, expected, b"")


# ---- terminals


def on_a_terminal(place: Place, *arguments: str, **env: str) -> tuple[int, bytes]:
    """A command whose stdin, stdout and stderr are one terminal: exit code and what it showed."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*STANDFAST, *arguments],
        cwd=place.root,
        env=os.environ | place.env | {"TERM": "xterm"} | env,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    try:
        while True:
            piece = os.read(ours, 65536)
            if not piece:
                break
            shown += piece
    except OSError:  # how Linux tells that the other side is closed
        pass
    finally:
        os.close(ours)
    return process.wait(60), shown


def test_colours_are_for_terminals_and_can_be_switched_off(embedded: Place) -> None:
    """Colours on a terminal only, and none there with NO_COLOR."""
    embedded.write("bad.json", "{")
    code, shown = on_a_terminal(embedded, "plan", "bad.json", NO_COLOR="")
    assert code == 4
    assert b"\x1b[31mrefused: " in shown
    code, shown = on_a_terminal(embedded, "plan", "bad.json", NO_COLOR="1")
    assert code == 4
    assert b"refused: " in shown
    assert b"\x1b" not in shown
    code, shown = on_a_terminal(embedded, "get", "my-views", "a", NO_COLOR="1")
    assert (code, shown[:7], b"\x1b" in shown) == (2, b"error: ", False)
    process = start(embedded, "plan", "bad.json", NO_COLOR="")
    assert b"\x1b" not in process.communicate()[1]


def test_a_long_step_shows_a_bar_on_a_terminal(embedded: Place) -> None:
    """A step that takes long gets a bar on a terminal, and leaves nothing of it behind."""
    code = (
        "import sys; from standfast.cli import output; output.BAR_AFTER_S = -1\n"
        "from standfast.cli.main import run_command; sys.exit(run_command(sys.argv[1:]))"
    )
    content = {str(number): number for number in range(5000)}
    for name, colour in (("one", ""), ("two", "1")):
        embedded.write(f"{name}.json", content)
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-c", code, "migrate", f"{name}.json"],
            cwd=embedded.root,
            env=os.environ | embedded.env | {"TERM": "xterm", "NO_COLOR": colour},
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=theirs,
        )
        os.close(theirs)
        shown = b""
        while b"done; undo it" not in shown:
            shown += os.read(ours, 65536)
        out, _ = process.communicate()
        os.close(ours)
        assert process.returncode == 0
        assert b"verify" in shown
        assert b"%" in shown
        assert len(out.splitlines()) == 1
        assert b"\x1b[3" not in shown or not colour


def test_any_free_port_is_named(embedded: Place) -> None:
    """`serve --port 0` says which port it got, and answers there."""
    process = start(embedded, "serve", "--port", "0")
    try:
        read_until(process, b"http://127.0.0.1:")
        port = int(read_until(process, b"/")[:-1])
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/livez", timeout=20) as answer:
            assert answer.status == 200
    finally:
        process.terminate()
        ends(process)
