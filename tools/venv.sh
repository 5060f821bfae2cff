#!/bin/sh
# Make or refresh the virtual environment: tools/venv.sh DIRECTORY [demo | test | dev | bench | docs]
#
# Called by the Makefile from the top of the checkout. Installs the package in editable form, with
# the named dependency group, at the versions of constraints.txt, and writes the stamps that make
# looks at.
# $PYTHON names the interpreter; without it the first Python >= 3.11 on PATH is taken.
set -eu

venv=$1
group=${2:-}
stamp=$venv/.ready
new_enough='import sys; sys.exit(sys.version_info < (3, 11))'

fail() {
    printf 'error: %s\n\nhint: %s\n' "$1" "$2" >&2
    exit 2
}

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        "$PYTHON" -c "$new_enough" 2>/dev/null ||
            fail "PYTHON=$PYTHON is not a Python 3.11 or later" "name another one: make PYTHON=..."
        printf '%s\n' "$PYTHON"
        return
    fi
    for name in python3 python3.14 python3.13 python3.12 python3.11 python; do
        if "$name" -c "$new_enough" 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
    fail "no Python 3.11 or later on PATH (python3 is $(python3 -V 2>&1 || true))" \
        "install one, or name it: make PYTHON=/path/to/python3.11"
}

make_venv() {
    python=$(find_python) || exit 2
    rm -rf "$venv"
    if "$python" -m venv "$venv" 2>/dev/null; then
        return
    fi
    # Debian and Ubuntu keep ensurepip in a package of its own (python3-venv). The pip that is there
    # can fill an environment that has none.
    rm -rf "$venv"
    if "$python" -m venv --without-pip "$venv" 2>/dev/null &&
        "$python" -m pip --python "$venv/bin/python" install -qq pip; then
        return
    fi
    rm -rf "$venv"
    fail "$python can make no virtual environment: it has neither ensurepip nor a pip >= 22.3" \
        "on Debian or Ubuntu: apt-get install python3-venv"
}

# Without a stamp the environment is somebody's own, and is used as it is; with one it must have
# been made here, since its programs and the editable install hold this path.
if [ -f "$stamp" ] && [ "$(cat "$stamp")" != "$PWD" ]; then
    rm -rf "$venv"
fi
if ! "$venv/bin/python" -c "$new_enough" 2>/dev/null; then
    make_venv
fi

echo "Installing standfast${group:+ and the group $group} into $venv ..."
rm -f "$venv"/.ready*
# pip knows dependency groups from 25.1 on, and older ones are common: the group is read here.
set -- --editable .
if [ -n "$group" ]; then
    requirements=$venv/group-$group.txt
    "$venv/bin/python" tools/group.py "$group" >"$requirements" ||
        fail "pyproject.toml has no usable dependency group $group" "see [dependency-groups] there"
    set -- "$@" --requirement "$requirements"
fi
"$venv/bin/python" -m pip install -qq "$@" ||
    fail "the installation into $venv failed: see above" \
        "check the network, or start again with: make distclean"

printf '%s\n' "$PWD" >"$stamp"
case $group in
test) cp "$stamp" "$stamp-demo" && cp "$stamp" "$stamp-test" ;;
demo) cp "$stamp" "$stamp-demo" ;;
docs) cp "$stamp" "$stamp-docs" ;;
bench) cp "$stamp" "$stamp-demo" && cp "$stamp" "$stamp-test" && cp "$stamp" "$stamp-bench" ;;
dev) cp "$stamp" "$stamp-demo" && cp "$stamp" "$stamp-test" && cp "$stamp" "$stamp-dev" ;;
esac
