#!/usr/bin/env bash
# The chart against Helm's own engine, Kubernetes' schemas, a scanner, and the real sidecar.
#
#   integration-tests/helm/run.sh             all tests; arguments go to pytest: -k golden
#   integration-tests/helm/run.sh --renew     writes anew what is made: golden renders, the README's table, the schema's knobs
#
# GRAPEVINE_BIN   the program (default: target/release/grapevine)
#
# Python packages: integration-tests/helm/requirements.txt, in the environment that is active; the README's table takes npm.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

GRAPEVINE_BIN=${GRAPEVINE_BIN:-$PWD/target/release/grapevine}
[ -x "$GRAPEVINE_BIN" ] || {
    echo "no program at $GRAPEVINE_BIN: cargo build --release -p grapevine, or name one in GRAPEVINE_BIN" >&2
    exit 1
}
export GRAPEVINE_BIN

python3 -c 'import helm_python, kubernetes_validate, pytest, yaml' || {
    echo "python3 lacks packages: pip install -r integration-tests/helm/requirements.txt" >&2
    exit 1
}

# The generator of the README's table, where it is not installed yet: a version that is named, beside the other tools of CI.
generator=2.7.2
tools=$PWD/target/ci-tools
export PATH="$tools/node_modules/.bin:$PATH"
if ! readme-generator --version 2>/dev/null | grep -qwF "$generator"; then
    npm install --silent --no-fund --no-audit --prefix "$tools" "@bitnami/readme-generator-for-helm@$generator"
fi

export PYTHONDONTWRITEBYTECODE=1
if [ "${1:-}" = --renew ]; then
    exec python3 integration-tests/helm/renew.py
fi
PYTHONPATH="$PWD/integration-tests" exec python3 -m pytest -q -p no:cacheprovider --rootdir integration-tests/helm integration-tests/helm "$@"
