"""What the two sides of a PostgreSQL connection say to each other, as far as commits go.

`Session` reads along: it knows which message of the client makes a write durable, and from the
server's answer whether that happened. It follows the simple and the extended protocol, pipelines
and prepared statements; it gives up (`opaque`) on an encrypted connection. COPY FROM STDIN is not
followed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_SSL_REQUEST, _GSS_REQUEST, _CANCEL_REQUEST = 80877103, 80877104, 80877102
_STARTUP_LENGTHS = range(8, 10_001)

#: Text that changes data, also inside of WITH; `FOR UPDATE` and `DO UPDATE` alone do not count.
_WRITES = re.compile(
    r"\b(insert\s+into|delete\s+from|merge\s+into|(?<!for )(?<!do )update\s+[\w.\"]+.*?\bset)\b",
    re.IGNORECASE | re.DOTALL,
)
_WRITE_TAGS = (b"INSERT ", b"UPDATE ", b"DELETE ", b"MERGE ")
_NOTHING_DONE = (b"INSERT 0 0", b"UPDATE 0", b"DELETE 0", b"MERGE 0")


class Session:
    """One connection, followed in both directions; feed it every byte before passing it on."""

    def __init__(self) -> None:
        self.opaque = False
        self._started = False
        self._answers = 0  # of one byte: to requests for encryption
        self._from_client = bytearray()
        self._from_server = bytearray()
        self._statements: dict[bytes, bytes] = {}
        self._portals: dict[bytes, bytes] = {}
        self._block = False
        self._wrote = False
        self._syncs = 0
        self._readies = -1  # the first one ends the authentication
        self._failed = False
        self._tag = b""
        self._awaited: int | None = None

    def client_said(self, chunk: bytes) -> int | None:
        """The number of the ReadyForQuery that will confirm the commit of a write.

        None when the chunk completes no message that commits one.
        """
        if self.opaque:
            return None
        self._from_client += chunk
        commit: int | None = None
        for kind, payload in self._client_messages():
            ready = self._heard(kind, payload)
            commit = commit if ready is None else ready
        return commit

    def await_ready(self, number: int) -> None:
        """Let `server_said` tell about this ReadyForQuery."""
        self._awaited = number

    def server_said(self, chunk: bytes) -> bool | None:
        """Whether the awaited commit took effect, once the server has said so; else None."""
        if self.opaque:
            return None
        self._from_server += chunk
        while self._answers and self._from_server:
            self._answers -= 1
            if self._from_server.pop(0) != ord("N"):
                self.opaque = True
                return None
        verdict: bool | None = None
        for kind, payload in _messages(self._from_server, b"CEZ"):
            if kind == b"C":
                self._tag = payload.rstrip(b"\0")
                if self._tag.startswith(_WRITE_TAGS) and self._tag not in _NOTHING_DONE:
                    self._wrote = self._wrote or self._block
            elif kind == b"E":
                self._failed = True
            else:
                verdict = self._ready(payload) if verdict is None else verdict
        return verdict

    def _ready(self, status: bytes) -> bool | None:
        self._readies += 1
        failed, self._failed = self._failed, False
        if self._readies >= self._syncs:  # nothing is on its way: the server knows best
            self._block = status != b"I"
        if self._awaited is None or self._readies < self._awaited:
            return None
        self._awaited = None
        return status == b"I" and not failed and self._tag != b"ROLLBACK"

    def _client_messages(self) -> Iterator[tuple[bytes, bytes]]:
        buffer = self._from_client
        while not self._started and len(buffer) >= 8:
            length = int.from_bytes(buffer[:4])
            code = int.from_bytes(buffer[4:8])
            if length not in _STARTUP_LENGTHS or code == _CANCEL_REQUEST:
                self.opaque = True
                return
            if len(buffer) < length:
                return
            del buffer[:length]
            if code in (_SSL_REQUEST, _GSS_REQUEST):
                self._answers += 1
            else:
                self._started = True
        if self._started:
            yield from _messages(buffer, b"QPBECSF")

    def _heard(self, kind: bytes, payload: bytes) -> int | None:
        if kind == b"Q":
            self._syncs += 1
            return self._syncs if self._commits(payload.rstrip(b"\0")) else None
        if kind in (b"S", b"F"):
            self._syncs += 1
        elif kind == b"P":
            name, text, _ = payload.split(b"\0", 2)
            self._statements[name] = text
        elif kind == b"B":
            portal, name, _ = payload.split(b"\0", 2)
            self._portals[portal] = self._statements.get(name, b"")
        elif kind == b"C" and payload[:1] == b"S":
            self._statements.pop(payload[1:].rstrip(b"\0"), None)
        elif kind == b"E":
            text = self._portals.get(payload.split(b"\0", 1)[0], b"")
            return self._syncs + 1 if self._commits(text) else None
        return None

    def _commits(self, text: bytes) -> bool:
        """Follow the statements of one message; whether one of them commits a write."""
        commits = False
        for part in text.decode("utf-8", "replace").split(";"):
            words = part.upper().split(None, 2)
            match words[:2]:
                case []:
                    pass
                case ["BEGIN" | "START", *_]:
                    self._block, self._wrote = True, False
                case ["COMMIT" | "END", *_]:
                    commits = commits or self._wrote
                    self._block, self._wrote = False, False
                case ["ROLLBACK", "TO"]:
                    pass
                case ["ROLLBACK" | "ABORT", *_]:
                    self._block, self._wrote = False, False
                case _ if _WRITES.search(part):
                    if self._block:
                        self._wrote = True
                    else:
                        commits = True
                case _:
                    pass
        return commits


def _messages(buffer: bytearray, kinds: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Take the whole messages out of the buffer; those of other kinds are left out."""
    while len(buffer) >= 5:
        end = 1 + int.from_bytes(buffer[1:5])
        if len(buffer) < end:
            return
        kind = bytes(buffer[:1])
        payload = bytes(buffer[5:end]) if kind in kinds else b""
        del buffer[:end]
        if kind in kinds:
            yield kind, payload
