#!/bin/sh
# Makes the virtual environment DIR hold REQUIREMENTS, with the first candidate interpreter that works.
#
#   tools/venv.sh DIR REQUIREMENTS LOWEST HIGHEST CANDIDATE...
#
# LOWEST and HIGHEST bound the interpreter's version (3.11 3.99). Each candidate is executed, not only looked
# up: a name on PATH may be a shim for an interpreter that is not there. Nothing happens when DIR already holds
# these requirements for the version found. Prints one line when it installs; one on stderr when it cannot, and
# exits 2.
set -eu

dir=$1 requirements=$2 lowest=$3 highest=$4
shift 4

probe='
import sys
low, high = (tuple(map(int, text.split("."))) for text in sys.argv[1:])
if not low <= sys.version_info[:2] <= high:
    sys.exit(3)
try:
    import ensurepip, venv
except ImportError:
    sys.exit(4)
print("%d.%d" % sys.version_info[:2])
'
found="" version="" without_venv=""
for candidate in "$@"; do
    if version=$("$candidate" -c "$probe" "$lowest" "$highest" 2>/dev/null); then
        found=$candidate
        break
    elif [ $? -eq 4 ]; then
        without_venv="$without_venv $candidate"
    fi
done
if [ -z "$found" ]; then
    if [ -n "$without_venv" ]; then
        echo "python:$without_venv cannot make virtual environments; install its venv package" \
            "(Debian and Ubuntu: apt install python3-venv) or run make PYTHON=/path/to/python" >&2
    else
        echo "python: none of '$*' is Python $lowest to $highest; install one or run make PYTHON=/path/to/python" >&2
    fi
    exit 2
fi

stamp=$dir/.requirements
# The stamp holds the files that REQUIREMENTS includes by "-r FILE" too, so that a change in them counts.
included=$(sed -n "s|^-r *|$(dirname "$requirements")/|p" "$requirements")
wanted=$(echo "# python $version"; cat "$requirements" $included)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && "$dir/bin/python" -c "" 2>/dev/null; then
    exit 0
fi
echo "setting up $dir with Python $version from $requirements"
"$found" -m venv --clear "$dir"
"$dir/bin/python" -m pip install -qq --no-input --disable-pip-version-check --prefer-binary -r "$requirements"
printf '%s\n' "$wanted" >"$stamp"
