#!/bin/sh
# Gets what the tests of the status page need beside the packages of .venv: Debian's Chromium, and
# axe-core from npm.  What cannot be had is said here, and its tests are skipped and counted as that;
# this script itself never fails.
cd "$(dirname "$0")/.." || exit 0

missing() {
    printf '\n*** %s\n*** Tests of the status page in a browser are skipped: see "skipped" below.\n\n' "$1" >&2
}

if ! command -v chromium >/dev/null; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        export DEBIAN_FRONTEND=noninteractive
        timeout 20 apt-get update -q >/dev/null 2>&1
        timeout 60 apt-get install -q -y --no-install-recommends chromium >/dev/null 2>&1
    fi
    command -v chromium >/dev/null || missing "Chromium is not installed and could not be installed"
fi
if [ ! -f .venv/axe-core/package/axe.min.js ]; then
    if ! command -v npm >/dev/null; then
        missing "npm is not installed: axe-core, the rules of accessibility, cannot be had"
    elif ! timeout 30 sh tools/axe.sh; then
        missing "axe-core, the rules of accessibility, could not be had from npm"
    fi
fi
exit 0
