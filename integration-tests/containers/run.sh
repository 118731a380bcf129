#!/usr/bin/env bash
# The image, and what the chart renders as three pods from it, in real containers.
#
#   integration-tests/containers/run.sh       all tests; arguments go to pytest: -k replaced
#
# GRAPEVINE_IMAGE           where the image is (default: target/image-out, where image/build leaves it)
# GRAPEVINE_CONTAINERS      podman or namespaces: in nothing else, or fail (default: containers, and where none can run, namespaces)
# GRAPEVINE_REQUIRE_PODS    1: fail where pods can run in neither (default: skip what takes them, and say so)
#
# Whether they can, a small program of C says that has nothing to do with the image. An image that does not run is a failure.
#
# It takes root, a C compiler, podman with runc, netavark and aardvark-dns. Python packages: integration-tests/containers/requirements.txt
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

GRAPEVINE_IMAGE=${GRAPEVINE_IMAGE:-${CARGO_TARGET_DIR:-$PWD/target}/image-out}
[ -f "$GRAPEVINE_IMAGE/grapevine.tar" ] || {
    echo "no image at $GRAPEVINE_IMAGE/grapevine.tar: image/build makes it, or name a directory in GRAPEVINE_IMAGE" >&2
    exit 1
}
export GRAPEVINE_IMAGE

python3 -c 'import grpc, grpc_tools, grpc_health, helm_python, pytest, yaml' || {
    echo "python3 lacks packages: pip install -r integration-tests/containers/requirements.txt" >&2
    exit 1
}

stubs=$(mktemp -d)
child=
trap 'rm -rf "$stubs"' EXIT
# The tests remove what they made.
trap '[ -z "$child" ] || kill -INT "$child" 2>/dev/null' INT TERM

python3 -m grpc_tools.protoc -I proto --python_out "$stubs" --grpc_python_out "$stubs" \
    proto/grapevine/v1/{types,explain,application}.proto

# In the background: bash runs its traps only between commands. It would ignore the signal there, were it not given back.
PYTHONPATH="$stubs:$PWD/integration-tests:$PWD/integration-tests/helm" PYTHONDONTWRITEBYTECODE=1 python3 -c '
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
import pytest
sys.exit(pytest.main(sys.argv[1:]))' \
    -q -x -p no:cacheprovider --rootdir integration-tests/containers integration-tests/containers "$@" &
child=$!
status=0
wait "$child" || status=$?
if [ "$status" -gt 128 ]; then
    # A signal came: now wait for the program itself.
    wait "$child" || true
fi
exit "$status"
