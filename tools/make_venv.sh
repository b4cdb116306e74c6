#!/usr/bin/env bash
# Make a virtual environment with the best Python at hand: 3.11, which is tested, else any that setup.cfg allows.
set -euo pipefail
venv=$1

in_range='import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))'
for python in ${PYTHON:-python3.11 python3 python3.12 python3.10}; do
    "$python" -c "$in_range" 2>/dev/null || continue
    if ! "$python" -c 'import ensurepip' 2>/dev/null; then
        echo "$python has no ensurepip: install its venv package (Debian, Ubuntu: apt-get install python3-venv)" >&2
        exit 1
    fi
    echo "$("$python" --version): $(command -v "$python")"
    "$(dirname "$0")/remove_venv.sh" "$venv"
    exec "$python" -m venv "$venv"
done
echo "no Python from 3.10 to 3.12 found (3.11 is tested); install one, or name it: make PYTHON=/path/to/python ..." >&2
exit 1
