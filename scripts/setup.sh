#!/usr/bin/env bash
# Creates the virtual environment and installs Failwise into it, editable, with pinned packages. Called by the Makefile.
# With --find, only says which interpreter it would take; exit code 3 where there is none.
set -euo pipefail
cd "$(dirname "$0")/.."
VENV=${VENV:-.venv} EXTRAS=${EXTRAS:-metaworld,text,dev} CONSTRAINTS=${CONSTRAINTS:-constraints.txt}
# The least minor version of Python 3.
LEAST=${LEAST:-11}

answers() { "$1" -c "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, $LEAST))" >/dev/null 2>&1; }

# A name on PATH may be a launcher for a version that is not there, so each candidate has to answer.
find_python() {
  local candidate minor pyenv
  local candidates=("${PYTHON:-}")
  pyenv=$(pyenv root 2>/dev/null) || pyenv=${PYENV_ROOT:-$HOME/.pyenv}
  for ((minor = LEAST; minor < 14; minor++)); do
    candidates+=("python3.$minor" "$pyenv/versions/3.$minor".*/bin/python)
  done
  for candidate in "${candidates[@]}" python3 python; do
    if [ -n "$candidate" ] && answers "$candidate"; then
      echo "$candidate"
      return
    fi
  done
  echo "setup: no Python 3.$LEAST or newer with the venv module was found on PATH or under pyenv." >&2
  echo "setup: install one (Debian, Ubuntu: apt-get install python3 python3-venv), or name it: make setup PYTHON=/path/to/python3" >&2
  return 3
}

if [ "${1:-}" = --find ]; then
  find_python
  exit
fi

if ! "$VENV/bin/python" -c "import sys, pip; sys.exit(sys.version_info < (3, $LEAST))" >/dev/null 2>&1; then
  python=$(find_python)
  echo "setup: creating $VENV with $("$python" --version)"
  "$python" -m venv --clear "$VENV"
fi

echo "setup: installing failwise[$EXTRAS] (a few minutes the first time)"
# Byte code is made when a module is first imported: for all at once it would be a minute of waiting, mostly for nothing.
# shellcheck disable=SC2086  # PIP_ARGS is a list of options
if ! "$VENV/bin/python" -m pip install --quiet --no-input --no-compile ${PIP_ARGS:-} --constraint "$CONSTRAINTS" --editable ".[$EXTRAS]"; then
  echo "setup: the installation failed (see above). When the network was the cause, run the same command again." >&2
  exit 1
fi
"$VENV/bin/failwise" --version
