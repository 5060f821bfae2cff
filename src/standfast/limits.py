"""Every limit of standfast in one place, each with its number and the reason for it."""

from __future__ import annotations

#: Nesting of arrays and objects in one document. Far above real files (17 at most in 412 state
#: files), far below the recursion limit of the parsers.
MAX_DEPTH = 256

#: UTF-8 bytes of one document's JSON text. PostgreSQL's jsonb ends at 256 MB.
MAX_DOCUMENT_BYTES = 64 * 1024 * 1024

#: Digits of one integer. PostgreSQL's numeric ends at 131,072; the conversion is quadratic.
MAX_INTEGER_DIGITS = 100_000

#: UTF-8 bytes of one key: a PostgreSQL index row ends at about 2,700 bytes.
MAX_KEY_BYTES = 1024

#: Characters of a collection name: with the longest suffix that an index name gets, it stays
#: below PostgreSQL's 63.
MAX_COLLECTION_CHARS = 50

#: Operations of one all-or-nothing batch.
MAX_BATCH_OPS = 10_000

#: Documents that one page of a scan returns at the most.
MAX_PAGE = 10_000

#: Seconds that an edit or a save of a JsonFile waits for another one of the same process.
JSON_FILE_TURN_S = 60.0

#: Attempts of `update(fn)` before it gives up with a ConflictError.
MAX_UPDATE_ATTEMPTS = 50

#: Times that a transaction is run again after a deadlock, a serialization failure or a lost race
#: for a new key.
MAX_TRANSACTION_ATTEMPTS = 5

# ---- the engine

#: Writes that wait for the writer thread. Far above the number of callers at once.
MAX_QUEUE_OPS = 50_000

#: JSON bytes of the writes that wait for the writer thread.
MAX_QUEUE_BYTES = 256 * 1024 * 1024

#: Writes and JSON bytes that one transaction on the primary takes, unless a single batch is larger.
MAX_TRANSACTION_OPS = 1000
MAX_TRANSACTION_BYTES = 8 * 1024 * 1024

#: Documents of which a backend remembers that they are there, so that a put of them is an update.
MAX_PRESENT = 50_000

#: Writes that the journal holds; a store that reaches it refuses the next one before it is
#: acknowledged. Half of it is warned about.
MAX_JOURNAL_OPS = 1_000_000

#: Bytes of the spool, and the seconds that a write waits for the journal before it goes there: the
#: first, and those that follow it.
MAX_SPOOL_BYTES = 64 * 1024 * 1024
JOURNAL_WAIT_S = 3.0
SPOOLING_WAIT_S = 0.05

#: Bytes that the reserve keeps on the disk, for what SQLite needs to open the journal and the
#: mirror and to note a lane (about 130 KB); and how many must be free for it to be made again.
RESERVE_BYTES = 256 * 1024
RESERVE_ROOM_BYTES = 1024 * 1024

#: Bytes of a collection that gets a snapshot, and the seconds between two looks at what is to be
#: written; a second look that finds nothing new says that things are quiet.
MAX_SNAPSHOT_BYTES = 16 * 1024 * 1024
SNAPSHOT_PAUSE_S = 1.0

#: Seconds that a process waits for another one that is using the spool.
SPOOL_WAIT_S = 1.0

#: Pending writes of one document up to which they are applied in the caller's own thread where no
#: folded head of them is at hand; above, a thread of the engine does it.
MAX_QUICK_OPS = 16

#: JSON bytes that the journal holds.
MAX_JOURNAL_BYTES = 1024 * 1024 * 1024

#: JSON bytes of pending writes that a process keeps in memory too: its journal may be destroyed.
MAX_REMEMBERED_BYTES = 64 * 1024 * 1024

#: Age of the oldest pending write at which a journal is no longer replayed without being asked.
MAX_JOURNAL_AGE_S = 24 * 3600.0

#: Reads that one statement answers together.
MAX_READ_KEYS = 1000

#: Batches of one lane, after which a new lane begins: one row of the primary, updated again and
#: again while a long snapshot is open there, becomes slow.
MAX_LANE_BATCHES = 10_000

#: Documents and known absences that the mirror holds; beyond, a tenth of the longest known goes.
MAX_MIRROR_ROWS = 1_000_000

#: Seconds that a call waits for the mirror's file when the primary has answered; what cannot be
#: written by then is kept in memory, up to so many transactions and so many bytes of documents.
MIRROR_WAIT_S = 0.05
MAX_MIRROR_BEHIND = 10_000
MAX_MIRROR_BEHIND_BYTES = 16 * 1024 * 1024

#: Documents of the mirror of which a later look that showed nothing new is remembered without
#: being written, and the seconds after which one is written all the same.
MAX_MIRROR_LOOKS = 20_000
MIRROR_LOOK_S = 60.0

#: Damaged files of one kind that are kept beside the new one.
MAX_SET_ASIDE = 3

#: Seconds that acknowledged writes are kept after the primary confirmed them.
RETENTION_S = 600.0

#: Bytes of such writes that are kept at the most; the older half goes when there are more.
MAX_RETAINED_BYTES = 256 * 1024 * 1024

#: Seconds that the log of changes is kept: who was away for longer looks at everything.
CHANGES_KEPT_S = 7 * 86_400.0

#: Rows of PostgreSQL's log of changes that are kept, however young the older ones are: about 20 MB.
MAX_CHANGES = 100_000

#: Seconds that a closed lane is kept: no statement of it can still be on its way then.
FENCES_KEPT_S = 7 * 86_400.0

#: Lanes of each data directory that are kept for longer, and the seconds: several, since stores of
#: one directory may close at once. A lane that nobody closed is kept as long.
LAST_LANES = 4
LAST_LANES_KEPT_S = 365 * 86_400.0

#: Seconds that the version of a deleted document is kept; the collection then goes on above it.
TOMBSTONES_KEPT_S = 30 * 86_400.0

#: Rows of one table of the bookkeeping that are trimmed in one transaction; the same while a store
#: is opened or closed; and expired documents of one collection.
MAX_TRIMMED_ROWS = 10_000
MAX_TRIMMED_AT_OPEN = 1_000
MAX_EXPIRED_ROWS = 1_000

#: Seconds that a document is kept after it has expired: whoever has begun with it may end.
EXPIRED_KEPT_S = 1.0

#: Seconds between two rounds of trimming, and the seconds that one transaction of it may take on
#: the server, and in all: nobody waits for it.
TRIM_PAUSE_S = 600.0
#: Batches of writes after which one comes earlier: each of them has added a row to a log.
TRIM_BATCHES = 50_000
TRIM_STATEMENT_S = 2.0
TRIM_DEADLINE_S = 10.0

#: Share of the time that trimming takes at the most: there is no index of the expiries.
TRIM_SHARE = 0.05

#: Connections of one store to its primary: one each for writes, reads and replays. Free plans of
#: hosts allow about 20 for everybody.
MAX_CONNECTIONS = 3

#: Fresh connections on which one batch or read is sent again before the primary counts as lost: a
#: server that can be reached and ends every session is of no use.
MAX_FRESH_CONNECTIONS = 3

#: Seconds that making a connection may take, everything that is asked on it included. Nobody waits
#: for it. At a round trip of 250 ms and with TLS it takes two.
CONNECT_DEADLINE_S = 10.0

#: Seconds without a sign of life from any address after which making a connection is given up.
CONNECT_SILENCE_S = 3.0

#: Bytes of a reply that arrive within the time of a deadline as long as it is not silent: less than
#: that is a server that hangs and a connection that says so.
MIN_REPLY_BYTES = 16 * 1024

#: Seconds that one reply may take although it keeps arriving.
MAX_REPLY_S = 300.0

#: Seconds that creating the bookkeeping or a table may take. No other collection waits for it.
DDL_DEADLINE_S = 10.0

#: Seconds that building an index may take: of a million documents it takes about ten.
INDEX_DEADLINE_S = 600.0

#: Seconds that a call waits at the most for the local files, beyond its deadline.
LOCAL_GRACE_S = 10.0

#: JSON bytes of pending writes that the replay has in memory at a time, unless a single batch is
#: larger.
MAX_WINDOW_BYTES = 16 * 1024 * 1024

#: Seconds that one transaction of the replay may take: the shortest and the longest limit, and the
#: bytes a second that a link is trusted with.  Nobody waits for it.
REPLAY_FIRST_S = 2.0
REPLAY_LONGEST_S = 600.0
REPLAY_BYTES_S = 1_000_000

#: The content of a compressed file, expanded, that a migration takes.
MAX_EXPANDED_BYTES = 1024 * 1024 * 1024

#: Attempts after which a write that the server fails on, while it takes others of its collection,
#: is rejected: with the pauses between them this takes about half a minute.
MAX_SUSPICIOUS_ATTEMPTS = 8

#: Attempts after which a write that a rule of its table refuses is rejected although no other write
#: has shown that the table takes any: within about two seconds.
MAX_REFUSED_ATTEMPTS = 4

#: Writes of a collection that fail, while none of it is taken, before it is held as a whole.
MAX_SUSPECTS = 3

#: Seconds that a thread whose last piece of work failed is reported, when it has had nothing to do
#: since.
TROUBLE_SHOWN_S = 10.0

#: Outages of one opened store that are remembered, and collections with refused writes.
MAX_OUTAGES = 50
MAX_REFUSING_COLLECTIONS = 200

#: Seconds between two lines of the log about refused writes of one collection.
REFUSAL_LOG_PAUSE_S = 60.0

#: Refused and rejected writes that wait for the application's functions; beyond, they are counted.
MAX_NOTICES = 10_000

#: Reports of closed stores that a data directory keeps: the newest.
MAX_OLD_REPORTS = 20

# ---- backups

#: Seconds that the snapshot of a backup may stay open. While it is, PostgreSQL cannot remove what
#: is updated or deleted, and the write-ahead log of SQLite grows; a million documents take 20.
MAX_SNAPSHOT_S = 900.0

#: Seconds without a statement after which the server ends the snapshot of a backup: its reader
#: hangs, or the disk to which it writes.
MAX_SNAPSHOT_IDLE_S = 60.0

#: Bytes of one line of a backup: a document at PostgreSQL's own limit, and what is kept beside it.
MAX_BACKUP_LINE_BYTES = 300 * 1024 * 1024

#: Seconds to wait for the lock of what is known of the backups, which is held for milliseconds.
NOTES_WAIT_S = 5.0

#: Seconds between a backup of the schedule that failed and the next try, at first and at the
#: longest; how long after its time one counts as missed; and how often the clock is looked at.
BACKUP_PAUSE_S = 60.0
BACKUP_LONGEST_PAUSE_S = 3600.0
BACKUP_OVERDUE_S = 2 * 3600.0
BACKUP_TURN_S = 60.0

#: Tries of the schedule that fail, after which a person has to act: within about ten minutes.
BACKUP_FAILURES = 4

#: Seconds that a backup stays which was made before something was overwritten.
SAFETY_BACKUPS_KEPT_S = 7 * 86_400.0

#: Seconds after which `cleanup` removes what is kept for a person to look at: the originals of a
#: migration that ended; files that were given up or moved aside; conflicts that were resolved.
RUNS_KEPT_S = 180 * 86_400.0
KEPT_FILES_S = 90 * 86_400.0
CONFLICTS_KEPT_S = 90 * 86_400.0

#: By how much the versions of a collection rise when its lost table is made anew: more than any of
#: the lost rows can have been written, since a million writes a second to one row take an hour.
LOST_TABLE_VERSIONS = 1 << 32
#: What a drop raises the versions of collections made later to, at most: half of what is there.
MAX_DROPPED_VERSION = 1 << 62

#: Rows that a report names; beyond them it counts.
MAX_NAMED_ROWS = 20

# ---- the bot

#: Entries of one guild's waitlist. Each change writes the document, of 300 bytes an entry or so.
MAX_WAITLIST_ENTRIES = 10_000

#: Characters of each text of an entry. Names at Discord end at 32, and fields of its forms, which
#: hold several sometimes, are set to less than this.
MAX_ENTRY_TEXT_CHARS = 200

#: Alternative names of one entry.
MAX_ALT_IGNS = 25
