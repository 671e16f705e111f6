# Sourced by examples/quickstart.sh, tests/run.sh and tests/vllm/run.sh: makes a virtual environment once and keeps it
# up to date.
#   make_environment FOLDER EXTRAS [CONSTRAINTS]     e.g. make_environment .venv demo

# A Python this package runs on, or nothing.
find_python() {
    local candidate
    for candidate in "${PYTHON:-python3}" python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            echo "$candidate"
            return
        fi
    done
}

make_environment() {
    local folder="$1" extras="$2" constraints="${3:-constraints.txt}" python stamp
    stamp="$(cat pyproject.toml "$constraints" | cksum | tr -d ' ')-$extras"
    if [ -f "$folder/installed" ] && [ "$(cat "$folder/installed")" = "$stamp" ]; then
        return
    fi
    python="$(find_python)"
    if [ -z "$python" ]; then
        echo "error: no Python 3.11 or newer with the venv module was found" >&2
        echo "  -> install one (Debian: apt-get install python3-venv), or set PYTHON=/path/to/python" >&2
        exit 2
    fi
    echo "setting up $folder with $("$python" --version) (a few minutes, once)"
    [ -x "$folder/bin/python" ] || "$python" -m venv "$folder"
    # torch first: where a plain CPU build is offered, it is taken, and nothing later replaces it
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check -c "$constraints" -e ".[$extras]"
    echo "$stamp" > "$folder/installed"
}
