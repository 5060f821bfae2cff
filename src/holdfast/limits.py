"""Every limit of holdfast in one place, each with its number and the reason for it."""

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

#: Attempts of `update(fn)` before it gives up with a ConflictError.
MAX_UPDATE_ATTEMPTS = 50

#: Times that a transaction is run again after a deadlock, a serialization failure or a lost race
#: for a new key.
MAX_TRANSACTION_ATTEMPTS = 5
