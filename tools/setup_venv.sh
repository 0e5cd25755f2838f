#!/usr/bin/env bash
# Makes or completes a virtual environment: VENV, PYTHON, TORCH_INDEX and a requirements file -> packages installed.
#
#     bash tools/setup_venv.sh .venv python3 "" requirements.txt
#
# A stamp in the environment names the requirements that it holds, so that a second call returns at once.
set -euo pipefail
venv=$1 python=$2 torch_index=$3 requirements=$4
index_file=$venv/torch_index
stamp=$venv/installed-$(basename "$requirements" .txt)

stop() { echo "error: $*" >&2; exit 2; }
version_of() { "$1" -c 'import platform; print(platform.python_version())'; }

known_index=$(cat "$index_file" 2>/dev/null || true)
torch_index=${torch_index:-$known_index}
wanted="$(cat "$requirements") torch from: ${torch_index:-the package index}"

if [ "$python" != python3 ] || [ ! -x "$venv/bin/python" ]; then
    command -v "$python" >/dev/null || stop "there is no $python: make PYTHON=/path/to/python3.11 (or newer) names another"
fi
# An interpreter that was asked for by name is compared with the one that is there.
if [ "$python" != python3 ] && [ -x "$venv/bin/python" ] && [ "$(version_of "$python")" != "$(version_of "$venv/bin/python")" ]; then
    stop "$venv has Python $(version_of "$venv/bin/python"), not $python: remove $venv to set it up anew"
fi
[ "$(cat "$stamp" 2>/dev/null || true)" = "$wanted" ] && exit 0

# Without a working pip there is no environment, or one whose making was interrupted.
if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        stop "Liftoff needs Python 3.11 or newer, and $python is $(version_of "$python"): make PYTHON=/path/to/a/newer/one"
    echo "setting up $venv with Python $(version_of "$python"); packages take a few minutes the first time"
    "$python" -m venv --clear "$venv" >&2 || stop "$python cannot make a virtual environment: Debian and Ubuntu have it in python3-venv"
fi

install() { "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@"; }
extra=()
if [ -n "$torch_index" ]; then
    extra=(--extra-index-url "$torch_index")
    if [ "$torch_index" != "$known_index" ]; then
        # The pinned version in that index's build: torch==X is satisfied by X+cu126.
        pin=$(grep -oE '^torch==[^ ]+' requirements.txt)
        install --force-reinstall --no-deps --index-url "$torch_index" "$pin" || stop "$torch_index has no $pin for this Python"
    fi
fi
echo "installing $requirements into $venv"
install ${extra[@]+"${extra[@]}"} -r "$requirements" || stop "the packages of $requirements could not be installed; see above"
if [ -n "$torch_index" ]; then echo "$torch_index" >"$index_file"; fi
printf '%s' "$wanted" >"$stamp"
