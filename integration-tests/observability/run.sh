#!/usr/bin/env bash
# Metrics, the dashboard's queries and the alert rules: by promtool, and by a Prometheus that scrapes a live cluster under load.
#
#   integration-tests/observability/run.sh             all tests; arguments go to pytest: -k dashboard
#   integration-tests/observability/run.sh --renew     writes the dashboard's JSON anew
#
# GRAPEVINE_BIN   the program (default: target/release/grapevine)
#
# It takes `prometheus` (with promtool) and `memcached`.
# Python packages: integration-tests/observability/requirements.txt, in the environment that is active.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

python3 -c 'import grafana_foundation_sdk, grpc, grpc_tools, pytest, xxhash, yaml' || {
    echo "python3 lacks packages: pip install -r integration-tests/observability/requirements.txt" >&2
    exit 1
}

export PYTHONDONTWRITEBYTECODE=1
if [ "${1:-}" = --renew ]; then
    exec python3 integration-tests/observability/dashboard.py
fi

for program in prometheus promtool memcached; do
    command -v "$program" >/dev/null || {
        echo "$program is not installed" >&2
        exit 1
    }
done
GRAPEVINE_BIN=${GRAPEVINE_BIN:-$PWD/target/release/grapevine}
[ -x "$GRAPEVINE_BIN" ] || {
    echo "no program at $GRAPEVINE_BIN: cargo build --release -p grapevine, or name one in GRAPEVINE_BIN" >&2
    exit 1
}
export GRAPEVINE_BIN

stubs=$(mktemp -d)
child=
trap 'rm -rf "$stubs"' EXIT
# It ends what it started.
trap '[ -z "$child" ] || kill -TERM "$child" 2>/dev/null' INT TERM

python3 -m grpc_tools.protoc -I proto --python_out "$stubs" --grpc_python_out "$stubs" \
    proto/grapevine/v1/{types,explain,application,admin,peer}.proto

# In the background: bash runs its traps only between commands.
PYTHONPATH="$stubs:$PWD/integration-tests:$PWD/integration-tests/python" python3 -m pytest -q -p no:cacheprovider --rootdir integration-tests/observability \
    integration-tests/observability "$@" &
child=$!
status=0
wait "$child" || status=$?
if [ "$status" -gt 128 ]; then
    # A signal came: now wait for the tests themselves.
    wait "$child" || true
fi
exit "$status"
