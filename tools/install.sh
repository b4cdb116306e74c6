#!/usr/bin/env bash
# Install this package into a virtual environment: tools/install.sh VENV [pip options] '.[armory]'
#
# The order matters. torch and torchaudio go in together: their builds must match. parallel-wavegan's set-up imports pip
# and an old distutils, so it builds only outside pip's isolation, where setuptools < 82 and wheel are installed. tidecv
# pulls in opencv-python, which needs a display's libraries; the headless build of the same module takes its place. Armory
# imports cairosvg, which needs a library that a bare system lacks; nothing here draws, so a stub takes its place there.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$1
shift
pip=("$venv/bin/python" -m pip --disable-pip-version-check)

"$venv/bin/python" -m pip --version >/dev/null 2>&1 || tools/make_venv.sh "$venv"
"${pip[@]}" install -q -c constraints.txt pip setuptools wheel
"${pip[@]}" install -q -c constraints.txt torch torchaudio
"${pip[@]}" install -q -c constraints.txt --no-build-isolation parallel-wavegan
PYTHONWARNINGS=ignore "${pip[@]}" install -q -c constraints.txt "$@"
"${pip[@]}" uninstall -q -y opencv-python
"${pip[@]}" install -q -c constraints.txt --no-deps --force-reinstall opencv-python-headless
if ! "$venv/bin/python" -c 'import cairocffi' 2>/dev/null; then
    echo "no libcairo here: installing a stub of cairosvg"
    "${pip[@]}" install -q --no-deps ./tools/cairosvg_stub
fi
