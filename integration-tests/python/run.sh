#!/usr/bin/env bash
# Another language against a running cluster: Python resolves, fills, registers, invalidates, lists and watches over the public
# contract, with stubs generated from proto/ at this moment and formats written from docs/ alone.
#
# GRAPEVINE_BIN            the program (default: the newer of target/release and target/debug; built when neither is there)
# GRAPEVINE_REQUIRE_PEERS  1: fail, instead of skipping, what needs a memcached that is not installed
#
# Python packages: integration-tests/python/requirements.txt
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

python3 -c 'import grpc, grpc_tools, grpc_health, grpc_reflection, xxhash' || {
    echo "python3 lacks packages: pip install -r integration-tests/python/requirements.txt" >&2
    exit 1
}

if [ -z "${GRAPEVINE_BIN:-}" ]; then
    for built in target/release/grapevine target/debug/grapevine; do
        if [ -x "$built" ] && { [ -z "${GRAPEVINE_BIN:-}" ] || [ "$built" -nt "$GRAPEVINE_BIN" ]; }; then
            GRAPEVINE_BIN=$PWD/$built
        fi
    done
fi
if [ -z "${GRAPEVINE_BIN:-}" ]; then
    cargo build --locked -p grapevine
    GRAPEVINE_BIN=$PWD/target/debug/grapevine
fi
[ -x "$GRAPEVINE_BIN" ] || {
    echo "no program at $GRAPEVINE_BIN" >&2
    exit 1
}
export GRAPEVINE_BIN

stubs=$(mktemp -d)
child=
trap 'rm -rf "$stubs"' EXIT
# The program ends what it started.
trap '[ -z "$child" ] || kill -TERM "$child" 2>/dev/null' INT TERM

python3 -m grpc_tools.protoc -I proto -I integration-tests/python --python_out "$stubs" --grpc_python_out "$stubs" \
    proto/grapevine/v1/{types,explain,application,admin}.proto \
    integration-tests/python/google_rpc.proto

# In the background: bash runs its traps only between commands.
PYTHONPATH="$stubs:$PWD/integration-tests" PYTHONDONTWRITEBYTECODE=1 python3 integration-tests/python/program.py "$@" &
child=$!
status=0
wait "$child" || status=$?
if [ "$status" -gt 128 ]; then
    # A signal came: now wait for the program itself.
    wait "$child" || true
fi
exit "$status"
