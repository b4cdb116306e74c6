#!/usr/bin/env bash
# Remove a virtual environment, or what is left of making one; refuse any other folder that holds something.
set -euo pipefail
venv=$1

# Python makes the folders of an environment and the link lib64 before it writes pyvenv.cfg.
if [ ! -f "$venv/pyvenv.cfg" ] &&
    [ -n "$(find -H "$venv" ! -type d ! '(' -type l -name lib64 ')' -print -quit 2>/dev/null)" ]; then
    echo "$venv is no virtual environment: it is left as it is" >&2
    exit 1
fi
# pyvenv.cfg goes last, or a removal that was interrupted could not go on.
[ ! -d "$venv" ] || find "$venv" -mindepth 1 -maxdepth 1 ! -name pyvenv.cfg -exec rm -rf {} +
rm -rf "$venv"
