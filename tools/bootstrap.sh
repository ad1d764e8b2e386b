#!/bin/sh
# Makes .venv with everything in requirements/dev.txt and the workspace's own packages; does nothing when it is current.
# It never needs root, but for Debian's python3-venv, which it installs by itself when it may.
set -eu
cd "$(dirname "$0")/.."

say() { printf '%s\n' "bootstrap: $*"; }
fail() { printf '%s\n' "bootstrap: $*" >&2; exit 1; }

find_python() {
    for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    fail "Python 3.11 or newer is needed and none was found; install it, or name it: make setup PYTHON=/path/to/python3"
}

install_venv_module() {
    line="apt-get install -y python3-venv"
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt-get update -qq && DEBIAN_FRONTEND=noninteractive $line
    elif command -v apt-get >/dev/null && sudo -n true 2>/dev/null; then
        sudo apt-get update -qq && sudo DEBIAN_FRONTEND=noninteractive $line
    else
        fail "$1 has no venv module; run: sudo $line"
    fi
}

python=$(find_python)
members=$(ls -d libs/*/ services/*/ sandbox/ cli/)
stamp=.venv/.patchbay-stamp
wanted=$({ "$python" -V; pwd; cat requirements/dev.txt; for member in $members; do cat "${member}pyproject.toml"; done; } | sha256sum)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
    exit 0
fi

"$python" -c 'import venv, ensurepip' 2>/dev/null || install_venv_module "$python"
say "making .venv with $("$python" -V) (first run: about a minute)"
"$python" -m venv --clear .venv || fail "$python could not make .venv"
say "installing requirements/dev.txt, every file checked against its hash"
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input --require-hashes -r requirements/dev.txt ||
    fail "pip could not install requirements/dev.txt; its message is above"
editable=
for member in $members; do editable="$editable -e ./$member"; done
say "installing the workspace's packages"
# uv builds them with the backend inside itself. --no-config: the workspace table is for uv's project commands only.
# shellcheck disable=SC2086
.venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --offline $editable ||
    fail "the workspace's packages could not be installed; uv's message is above"
printf '%s\n' "$wanted" >"$stamp"
say "done"
