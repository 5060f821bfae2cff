"""The error tree: every failure of standfast, with a code for programs and a hint for people.

::

    StandfastError
    |- ConfigError          a setting, a URL, a name or a data directory is wrong
    |- DataError            refused at the door: what was given is not JSON within the limits
    |- ConflictError        a condition on the document's version does not hold
    |- Unavailable          the database does not answer; nothing is lost, trying again makes sense
    |  `- DeadlineExceeded  no answer in time: the outcome is unknown
    |- CorruptData          what is stored cannot be read back
    `- MigrationError       a migration, verification or rollback stopped; `code` says at what

A message says what was tried, on what, and what happened; the hint says what to do next.
Neither ever holds a password or the content of a document.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Self


class StandfastError(Exception):
    """Root of the tree.

    `code` is stable and meant for programs: see `CODES`.  `hint` is one sentence for people (or
    empty); a traceback shows it, too, as a note.
    """

    code = "error"

    def __init__(self, message: str, *, code: str | None = None, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint
        if hint:
            self.add_note(f"hint: {hint}")
        if code is not None:
            self.code = code

    @property
    def retryable(self) -> bool:
        """Whether the same call may succeed later without any change by the user.

        What that means for a write: nothing of it was acknowledged.  After `DeadlineExceeded` it
        may have taken effect all the same, so that only what may happen twice should be repeated.
        Never true of `ConfigError`, `DataError` and `CorruptData`: they would come again.
        """
        known = CODES.get(self.code)
        if isinstance(self, ConfigError | DataError | CorruptData):
            return False
        return isinstance(self, Unavailable) if known is None else known.retryable

    @property
    def message(self) -> str:
        """What was tried, on what, and what happened."""
        return str(self.args[0])

    def about(self, what: str) -> Self:
        """This error, with what it is about in front of its message."""
        self.args = (f"{what}: {self.message}",)
        return self


class ConfigError(StandfastError):
    """A setting, a URL, a collection name, a table or a data directory cannot be used as it is."""

    code = "config"


class DataError(StandfastError):
    """Refused before any I/O: the value is not JSON within the stated limits.

    `path` is the place inside the document, as a JSONPath such as `$.a[2]`;
    `where` is `file:line:column` when the value came from a file.
    """

    code = "data"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        hint: str = "",
        path: str = "",
        where: str = "",
    ) -> None:
        super().__init__(message, code=code, hint=hint)
        self.path = path
        self.where = where


class ConflictError(StandfastError):
    """The document's version is not the one that the caller named; nothing was changed.

    `expected` and `actual` are versions; 0 stands for "no document".
    """

    code = "conflict"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        hint: str = "",
        expected: int | None = None,
        actual: int | None = None,
    ) -> None:
        super().__init__(message, code=code, hint=hint)
        self.expected = expected
        self.actual = actual


class Unavailable(StandfastError):
    """The database cannot be reached or cannot take the call now; nothing was acknowledged."""

    code = "unavailable"


class DeadlineExceeded(Unavailable):
    """No answer within the deadline: the outcome of the call is unknown."""

    code = "deadline"


class CorruptData(StandfastError):
    """Stored data cannot be read back as what was put: damaged file, table or backup."""

    code = "corrupt"


class MigrationError(StandfastError):
    """A migration, verification or rollback stopped before changing more; `code` says why."""

    code = "migration"


class Code(NamedTuple):
    """What a code means: the classes it comes with, and whether trying again makes sense."""

    classes: frozenset[str]
    retryable: bool
    meaning: str


# Every code, in the order of docs/errors.md, which says what to do: the classes (*: the same call
# may succeed later without any change by the user), and the meaning.
_TABLE = """
# class codes
error                StandfastError : what does not belong to one of the classes below
config               ConfigError   : a setting, a name or a file cannot be used as it is
data                 DataError     : a value is not JSON within the limits
conflict             ConflictError : the document has not the version that was named
unavailable          Unavailable * : the primary is away, and `fallback` refuses the call
deadline             DeadlineExceeded * : no answer within the deadline
corrupt              CorruptData   : a file, a row or a backup is damaged
migration            MigrationError : a migration, verification or rollback stopped
# arguments and options
usage                ConfigError   : an argument, or a combination of arguments, is not valid
bad_url              ConfigError   : the database URL or a setting cannot be read
bad_scheme           ConfigError   : the URL's scheme is neither PostgreSQL's nor SQLite's
bad_parameter        ConfigError   : a parameter of the URL, or its value, is not known
bad_collection       ConfigError   : the name cannot name a collection
bad_key              DataError     : the value cannot be a key, or not in this table
missing_extra        ConfigError   : an optional package is not installed
not_confirmed        ConfigError | MigrationError | StandfastError : a confirmation was not given
# values
not_json             DataError     : a value, or a text, is not JSON
not_finite           DataError     : NaN and Infinity are not JSON
naive_datetime       DataError     : a time has no timezone
integer_too_long     DataError     : an integer has too many digits
surrogate_pair       DataError     : two escapes of half a character in an odd place
too_deep             DataError     : nested deeper than the limit
too_large            DataError     : a document is larger than the limit
duplicate_key        DataError     : a name stands twice in one object, or two keys are one
wrong_type           DataError | CorruptData : the value is not of the type that is wanted there
bad_pointer          DataError     : the JSON pointer is not valid, or leads nowhere
bad_index            DataError     : a JSON pointer steps into what has no such member
not_an_object        DataError | CorruptData : what should be an object is something else
batch_too_large      DataError     : a batch has more writes than the limit
returned_none        DataError     : the function given to `update` returned None
# texts of files
empty                DataError     : the text is empty
truncated            DataError     : the text ends too early
nul_filled           DataError     : the text is filled with NUL bytes
comment              DataError     : the text has a comment
trailing_comma       DataError     : a comma has nothing after it
single_quotes        DataError     : a string is in single quotes
bad_escape           DataError     : an escape sequence is not one of JSON's
control_character    DataError     : a control character in a string
number_range         DataError     : a number is beyond the range of a float
lone_surrogate       DataError     : half a character, as no UTF-8 text can hold it
byte_order_mark      DataError     : a byte order mark inside the text
bad_encoding         DataError     : the file's encoding cannot be read
extra_data           DataError     : something follows the end of the value
unreadable           DataError | ConfigError : a file or a directory cannot be read
# conditions and races
contended            ConflictError | Unavailable * : other writers were faster too many times
missing              ConflictError : there is no document to update
moved                ConflictError | MigrationError : it was changed by others meanwhile
not_empty            ConflictError : a collection that was to be dropped has documents
claim_lapsed         ConflictError : the claim went to another caller, or the entry is gone
condition            DataError     : on replay, the write's condition no longer held
deleted_meanwhile    DataError     : on replay, the document had been deleted
time_travel          DataError     : on replay, others wrote after the primary had lost it
resolver_failed      DataError     : on replay, the function of `on_conflict` failed
# the primary is away, or what is known without it does not suffice
needs_primary        Unavailable * : only the primary can decide the call, and it is away
not_mirrored         Unavailable * : the primary is away, and it is not known here
too_stale            Unavailable * : the primary is away, and what is known here is too old
environment_unknown  Unavailable * : the store's environment is not known here
unknown_outcome      DeadlineExceeded * : the reply was lost: the write may have taken effect
stuck                DeadlineExceeded * : not even the local files answered in time
not_flushed          DeadlineExceeded * : writes are still in the journal
queue_full           Unavailable * : too many writes wait; reads and health are not affected
journal_full         Unavailable * : the journal has reached its limit
journal_old          Unavailable   : writes of more than a day ago wait for a decision
closed               Unavailable   : the store was closed
forked               Unavailable   : the store was opened before the process forked
busy                 Unavailable * : other threads use every connection, and none was free in time
fenced               Unavailable * : another process has closed this store's lane
no_primary           ConfigError   : the command is about a PostgreSQL, and the URL names none
# connections and servers
connection           Unavailable * : there is no connection to the server
connection_lost      Unavailable * : the connection ended while a statement was on its way
auth                 Unavailable   : the server refuses the user or the password
tls                  ConfigError   : the connection cannot be encrypted as the URL demands
not_postgresql       Unavailable   : something else than PostgreSQL answers there
no_database          ConfigError   : the database does not exist
no_schema            ConfigError   : no schema of the search path exists
no_identity          ConfigError   : the database's bookkeeping has lost its identity
no_rights            ConfigError   : the role, or this process, has not the right
no_table             ConfigError   : the collection's table is missing
no_column            ConfigError   : a column of the collection's table is missing
server_too_old       ConfigError   : the server's version is not supported
server_encoding      ConfigError   : the database's encoding cannot hold every text
schema               ConfigError   : the schema was not applied
schema_newer         ConfigError   : a newer standfast has made the schema
other_schema         ConfigError   : the collection's table is in another schema
foreign_owner        ConfigError   : a role that this one does not trust owns schema or table
not_adoptable        ConfigError   : the table cannot be used as a collection
adopted              ConfigError   : another program made the table, which is not ours to drop
database             ConfigError   : the database refused a statement
shutdown             Unavailable * : the server is starting, stopping, or cut the session off
read_only            Unavailable | ConfigError * : the server, the file or its disk is read-only
locked               Unavailable | MigrationError * : another process or transaction holds a lock
timeout              Unavailable * : the server's time limit cut the statement off
expired              Unavailable * : the statement reached the server too late
retry                Unavailable * : another transaction was in the way
too_many_connections Unavailable * : the server takes no more connections
resources            Unavailable * : the server is out of a resource
disk_full            Unavailable * : the disk is full
disk_error           Unavailable * : the disk reports an error
server_io            Unavailable * : the server's disk or system failed
server_internal      Unavailable * : the server reports an internal error
internal             Unavailable | DeadlineExceeded * : a thread failed unexpectedly
refused              DataError     : the server cannot take the value
constraint           DataError     : a constraint of the table refuses the row
trigger              DataError     : a trigger of the table refuses the row
out_of_range         DataError     : the table's key column cannot hold the key
batch                DataError     : another write of the batch was refused
# local files
data_dir             ConfigError   : the data directory cannot be used
disk                 ConfigError   : a file cannot be written
file                 ConfigError   : a file cannot be used
file_gone            CorruptData   : a file was removed or replaced while it was open
cannot_open          ConfigError   : a file cannot be opened
no_wal               ConfigError   : the file cannot be put into WAL mode
not_a_database       ConfigError | CorruptData : the file is not a SQLite database
not_ours             ConfigError   : the file belongs to another application
mirror_file          ConfigError   : the file is the mirror of a PostgreSQL database
embedded_data        ConfigError   : the data directory holds documents of an embedded database
# the identity of a database
directory_in_use     ConfigError   : a process uses the data directory for another database
other_database       CorruptData | ConfigError : it belongs to another database
went_back            CorruptData   : the database has forgotten writes that it confirmed
# JsonFile
referenced           MigrationError | ConfigError : others refer to rows, or a table, that would go
other_file           ConfigError   : the collection was filled from another file of the name
not_migrated         ConfigError   : the file is there, and nothing of it is stored
# migrations and commands
no_json              ConfigError   : no JSON files were found
no_key               DataError     : a record has no usable key
output               ConfigError   : the output cannot be written
interrupted          command       : a command was interrupted
bug                  command       : standfast itself has failed
no_such_file         ConfigError   : the file or directory does not exist
no_such_run          ConfigError   : there is no such run
same_collection      ConfigError   : two files would become one collection
exists               ConfigError   : the output file exists
state                ConfigError   : the run is not in a state for this
plan_stale           MigrationError : something changed since the plan was made
rolling_back         MigrationError : the run's rollback was interrupted
run_file             CorruptData   : a file of the run is damaged
backup               CorruptData   : a backup of the run is damaged or cannot be read
# backups
no_such_backup       ConfigError   : there is no such backup
no_such_collection   ConfigError   : there is no collection of that name
no_such_document     ConfigError   : the backup has no document of that key
damaged_backup       CorruptData   : something in the backup is not as it was written
backup_newer         CorruptData   : a newer standfast has made the backup
snapshot_too_long    Unavailable   : the snapshot of a backup was open for too long
pending_writes       MigrationError | Unavailable * : acknowledged writes wait for the database
not_equal            MigrationError : what was read back is not what was written
no_entry             StandfastError : there is no conflict of this number
no_base              ConfigError   : the conflict has no base
not_open             ConflictError | ConfigError : the conflict, or the bot's storage, is not open
batch_split          ConfigError   : the write is part of a batch
# bots
bad_guild            DataError     : not the id of a guild
bad_id               DataError     : not the id of a channel, message or member
bad_name             DataError | ConfigError : not a name that can be used there
bad_time             DataError | CorruptData : not a time
bad_lease            DataError     : not a lease
bad_number           DataError     : not a number that can be used there
bad_age              DataError     : not a number of days
bad_registered       DataError     : `registered=` does not say who is registered
not_registered       DataError     : `register` returned False
bad_modes            ConfigError   : the event modes are not a list of different names
unknown_mode         DataError | CorruptData : not one of the event modes
unknown_setting      DataError     : not one of the registered settings
unknown_field        DataError     : not a field of a waitlist entry
too_long             DataError     : a text, or a list of names, is longer than the limit
bad_entry            CorruptData   : a stored waitlist cannot be read
waitlist_full        DataError     : the waitlist has reached its limit
no_live_guilds       DataError     : a cleanup was asked for without a single live guild
bad_environment      ConfigError | CorruptData : not the name of an environment
wrong_environment    ConfigError   : the store, or the guild, is of another environment
"""


def _codes() -> Iterator[tuple[str, Code]]:
    for line in _TABLE.strip().splitlines():
        if not line.startswith("#"):
            what, meaning = line.split(" : ")
            code, *classes = what.replace("|", " ").split()
            yield code, Code(frozenset(classes) - {"*"}, "*" in classes, meaning)


CODES: dict[str, Code] = dict(_codes())
