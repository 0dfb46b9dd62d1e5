#!/bin/sh
# Run `python -m loraportal.setup "$@"` with a Python that is new enough: $PYTHON, or the first one that is found.
try() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

if [ -n "${PYTHON:-}" ]; then
    if try "$PYTHON"; then exec "$PYTHON" -m loraportal.setup "$@"; fi
    echo "PYTHON=$PYTHON is not a Python 3.11 or newer: set PYTHON to one, or leave it out." >&2
    exit 1
fi
for name in python3.11 python3 python3.12 python3.13 python3.14 python; do
    if try "$name"; then exec "$name" -m loraportal.setup "$@"; fi
done
echo "No Python 3.11 or newer was found: install it (Debian, Ubuntu: apt install python3 python3-venv) and run make again." >&2
exit 1
