#!/bin/sh
# Gets axe-core, whose rules tests/serve/test_page.py holds against the status page, into .venv.
set -eu
cd "$(dirname "$0")/.."
version=4.14.1
mkdir -p .venv/axe-core
cd .venv/axe-core
npm pack --silent "axe-core@$version" >/dev/null
tar xzf "axe-core-$version.tgz"
rm "axe-core-$version.tgz"
