#!/usr/bin/env bash
# A limited replay of the trace under every strategy, plain and paged, and the control arms that show that the
# auditor has eyes: a cache that nobody invalidates, one without a fence and sessions that carry no token must be caught
# with stale reads, and one that never hits must fail on hits. The full replays and their figures are in docs/benchmarks.md.
#
# GRAPEVINE_TRACE   the trace          (default: ../shared/data/orm-busy.trace.xz)
# GRAPEVINE_LIMIT   its first records  (default: 200000)
# GRAPEVINE_BIN     the program        (default: target/release/grapevine)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

trace=${GRAPEVINE_TRACE:-../shared/data/orm-busy.trace.xz}
limit=${GRAPEVINE_LIMIT:-200000}
grapevine=${GRAPEVINE_BIN:-target/release/grapevine}
[ -r "$trace" ] || {
    echo "no trace at $trace: set GRAPEVINE_TRACE" >&2
    exit 1
}
[ -x "$grapevine" ] || {
    echo "no program at $grapevine: cargo build --release -p grapevine" >&2
    exit 1
}

failures=0
out=$(mktemp)
log=$(mktemp)
trap 'rm -f "$out" "$log"' EXIT

# expect NAME EXIT JQ-CONDITION CACHE STRATEGY [flag...]: EXIT is `zero` or `nonzero`; the condition is on the line
# of figures that the replay prints.
expect() {
    local name=$1 exit_wanted=$2 condition=$3 cache=$4 strategy=$5 status=0 begun=$SECONDS
    shift 5
    "$grapevine" replay --trace "$trace" --nodes 3 --writes 0.07 --cache "$cache" --strategy "$strategy" \
        --seed 1 --limit "$limit" --json "$@" >"$out" 2>"$log" || status=$?
    local verdict=ok line
    line=$(tail -n 1 "$out")
    if { [ "$exit_wanted" = zero ] && [ "$status" -ne 0 ]; } || { [ "$exit_wanted" = nonzero ] && [ "$status" -eq 0 ]; }; then
        verdict="FAILED: exit status $status, wanted $exit_wanted"
    elif ! jq -e "$condition" >/dev/null 2>&1 <<<"$line"; then
        verdict="FAILED: not so: $condition"
    fi
    printf '%-28s %4d s  %s\n' "$name" $((SECONDS - begun)) "$verdict"
    printf '  %s\n' "$line"
    if [ "$verdict" != ok ]; then
        failures=$((failures + 1))
        tail -n 40 "$log" | sed 's/^/  | /'
    fi
}

hits='.hits > 0 and .hit_ratio >= 0.95 * .oracle_hit_ratio'
safe=".stale_reads == 0 and $hits"

expect versioned zero "$safe" memcached versioned
expect versioned-pages zero "$safe" redis versioned --pages
expect registered zero "$safe" redis registered
expect registered-pages zero "$safe" memcached registered --pages
expect bucketed zero "$safe" memcached bucketed
expect bucketed-pages zero "$safe" embedded bucketed --pages
# With receipts below `all` a read is owed what its own session wrote, on whichever node it asks; every write is read
# back on another node.
expect versioned-session zero "$safe" memcached versioned --receipt one --session
expect registered-session zero "$safe" redis registered --receipt none --session
# `ttl` is old until its TTL, and must be seen to be; the replay itself fails when a read is older than that.
old='.hits > 0 and .lagging_reads > 0 and .lag_ms_max <= 3000'
expect ttl zero "$old" memcached ttl --ttl 3s
expect ttl-pages zero "$old" redis ttl --pages --ttl 3s

# Nothing is invalidated there, so nothing can have been invalidated without a reason.
expect control-none nonzero '.stale_reads > 0 and .over_invalidations == 0' memcached none
expect control-naive-delete nonzero '.stale_reads > 0' memcached naive-delete
expect control-bypass-all nonzero '.stale_reads == 0 and .hit_ratio < 0.95 * .oracle_hit_ratio' memcached bypass-all
# As versioned-session with receipt none, but nothing carries the tokens; fewer operations are enough.
limit=$((limit / 4))
expect control-ignore-session nonzero '.stale_reads > 0' memcached ignore-session

if [ "$failures" -gt 0 ]; then
    echo "replay: $failures runs did not do what they must" >&2
    exit 1
fi
