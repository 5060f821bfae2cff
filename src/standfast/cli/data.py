"""`get`, `put`, `patch`, `delete`, `list`, `export`."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Any

import click

from standfast.cli.common import (
    collection_names,
    common_options,
    library_warnings,
    open_backend,
    open_for_data,
)
from standfast.cli.output import (
    Exit,
    did_you_mean,
    give,
    line_of,
    masked,
    note,
    print_line,
    print_lines,
    shown,
    wants_json,
)
from standfast.config.settings import Settings
from standfast.document.codec import accept, decode, encode
from standfast.document.names import collection_name, key_text
from standfast.errors import ConfigError

#: Keys that `list` prints at the most.
MAX_LIST = 10_000


@click.command("get")
@click.argument("collection", shell_complete=collection_names)
@click.argument("key")
@click.option("--local", is_flag=True, help="Read the mirror and the journal, not the database.")
@common_options("--url")
def get_command(collection: str, key: str, local: bool, settings: Settings) -> int:
    """Print the document KEY of COLLECTION; exit code 1 when there is none.

    With --json: key, version, times and value.  With --local it works during an outage: the
    document as this data directory knows it, pending writes included, and how old that is.
    """
    if local:
        return _get_local(settings, collection, key)
    with open_for_data(settings) as store:
        found = store[collection].read(key)
    if found is None:
        give({"collection": masked(collection), "key": masked(key), "found": False})
        note(f"no document {key!r} in `{collection}`")
        return Exit.NO
    if wants_json():
        head = {
            "collection": collection,
            "key": key,
            "found": True,
            "version": found.version,
            "created_at": found.created_at.isoformat(),
            "updated_at": found.updated_at.isoformat(),
        }
        text = encode(head)[:-1] + ',"value":' + encode(found.value) + "}"
        print_line(text)
    else:
        print_line(encode(found.value))
    return Exit.DONE


def _get_local(settings: Settings, collection: str, key: str) -> int:
    from standfast.admin.journal import read_locally

    with library_warnings():
        found = read_locally(settings, collection_name(collection), key_text(key))
    if wants_json():
        head = {
            "collection": collection,
            "key": key,
            "found": found.text is not None,
            "source": found.source,
            "age_s": found.age_s,
            "pending": found.pending,
        }
        value = "" if found.text is None else f',"value":{found.text}'
        print_line(encode(head)[:-1] + value + "}")
    elif found.text is not None:
        print_line(found.text)
    age = f"{found.age_s:.0f} s old" if found.age_s is not None else "never seen on the primary"
    pending = f", with {found.pending} pending write(s)" if found.pending else ""
    note(f"from the {found.source}: {age}{pending}")
    if found.text is None:
        note(f"no document {key!r} in `{collection}`, as far as is known here")
        return Exit.NO
    return Exit.DONE


@click.command("put")
@click.argument("collection", shell_complete=collection_names)
@click.argument("key")
@click.argument("value", required=False)
@click.option("--if-version", type=int, help="Only when the document has this version (0: none).")
@click.option("--if-absent", is_flag=True, help="Only when the document does not exist.")
@click.option(
    "--ttl", "ttl_s", type=float, metavar="SECONDS", help="Let the document expire after this time."
)
@common_options("--url")
def put_command(
    collection: str,
    key: str,
    value: str | None,
    if_version: int | None,
    if_absent: bool,
    ttl_s: float | None,
    settings: Settings,
) -> int:
    """Put VALUE (JSON; from stdin when it is missing or `-`) as document KEY of COLLECTION."""
    document = _given(value)
    with open_for_data(settings) as store:
        receipt = store[collection].put(
            key, document, if_version=if_version, if_absent=if_absent, ttl_s=ttl_s
        )
    give({"version": receipt.version, "durable_on": receipt.durable_on})
    note(f"put {key!r} in `{collection}`: version {receipt.version}")
    return Exit.DONE


@click.command("patch")
@click.argument("collection", shell_complete=collection_names)
@click.argument("key")
@click.argument("patch", required=False)
@click.option("--if-version", type=int, help="Only when the document has this version.")
@common_options("--url")
def patch_command(
    collection: str, key: str, patch: str | None, if_version: int | None, settings: Settings
) -> int:
    """Change members of the document KEY of COLLECTION by PATCH (a JSON merge patch, RFC 7396).

    PATCH comes from stdin when it is missing or `-`.  A member that is null is removed.
    """
    change = _given(patch)
    with open_for_data(settings) as store:
        receipt = store[collection].patch(key, change, if_version=if_version)
    give({"version": receipt.version, "durable_on": receipt.durable_on})
    note(f"patched {key!r} in `{collection}`: version {receipt.version}")
    return Exit.DONE


def _given(text: str | None) -> Any:
    """The value of an argument, or of stdin in its place."""
    source = "value"
    if text is None or text == "-":
        from standfast.migrate.read_file import decode_text

        source = "stdin"
        text, _ = decode_text(sys.stdin.buffer.read(), source)
    return decode(accept(text, source=source))


@click.command("delete")
@click.argument("collection", shell_complete=collection_names)
@click.argument("key")
@click.option("--if-version", type=int, help="Only when the document has this version.")
@common_options("--url")
def delete_command(collection: str, key: str, if_version: int | None, settings: Settings) -> int:
    """Delete the document KEY of COLLECTION; exit code 1 when there is none."""
    with open_for_data(settings) as store:
        receipt = store[collection].delete(key, if_version=if_version)
    give({"deleted": bool(receipt.version)})
    note(f"deleted {key!r} from `{collection}`" if receipt.version else f"no document {key!r}")
    return Exit.DONE if receipt.version else Exit.NO


@click.command("list")
@click.argument("collection", required=False, shell_complete=collection_names)
@click.option("--prefix", default="", help="Only keys that begin with this.")
@click.option("--after", help="Only keys after this one, in bytewise order.")
@click.option("--limit", type=click.IntRange(1, MAX_LIST), default=1000, show_default=True)
@click.option(
    "-0", "--null", is_flag=True, help="Keys as they are, each ended by a NUL (xargs -0)."
)
@common_options("--url")
def list_command(
    collection: str | None,
    prefix: str,
    after: str | None,
    limit: int,
    null: bool,
    settings: Settings,
) -> int:
    """List the collections with their number of documents, or the keys of COLLECTION.

    In a line, control characters of a key are shown as \\x0a and a backslash as two.
    """
    with open_for_data(settings) as store:
        if collection is None:
            counts = {name: store[name].count() for name in store.collections()}
            give({"collections": counts}, (f"{name}\t{n}" for name, n in counts.items()))
            return Exit.DONE
        known = store.collections()
        if collection_name(collection) not in known:
            return _no_collection(collection, known)
        keys = list(store[collection].keys(prefix=prefix, after=after, limit=limit))
    if null and not wants_json():
        print_lines(f"{key}\0" for key in keys)
    else:
        give({"collection": collection, "keys": keys}, map(line_of, keys))
    if len(keys) == limit:
        note(f"there may be more: --after {shlex.quote(shown(keys[-1]))}")
    return Exit.DONE


def _no_collection(collection: str, known: list[str]) -> int:
    give({"collection": masked(collection), "found": False})
    note(f"no collection `{masked(collection)}`.{did_you_mean(collection, known)}")
    return Exit.NO


@click.command("export")
@click.argument("collection", shell_complete=collection_names)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write to this file.")
@click.option("-f", "--force", is_flag=True, help="Replace the file when it exists.")
@common_options("--url")
def export_command(collection: str, output: Path | None, force: bool, settings: Settings) -> int:
    """Print COLLECTION as JSON in the form that it had as a file: exact values, same order."""
    from standfast.migrate.export import export_lines, save_export

    if output is not None and os.path.lexists(output) and not force:
        raise ConfigError(f"{output} exists", code="exists", hint="--force replaces it")
    with open_backend(settings) as backend:
        known = backend.collections()
        if collection_name(collection) not in known:
            return _no_collection(collection, known)
        lines = export_lines(backend, collection, one_document=wants_json() and output is None)
    if output is None:
        print_lines(lines)
        return Exit.DONE
    save_export(lines, output)
    give({"collection": collection, "file": str(output)})
    note(f"exported `{collection}` to {output}")
    return Exit.DONE
