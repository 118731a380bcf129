"""Real trouble in real sidecars, and which alerts have a reason then: by the rules' own expressions, over seconds in the place of
minutes.

How long it must last, and what the alert says, is for `promtool test rules`. Alerts that nothing here brings about are in
`exceptions.yaml`, each with its reason.
"""

import re
import time

import pytest
import yaml
from grapevine.v1 import types_pb2 as types

import moves
import rules
import world as worlds
from moves import has_risen, rises
from pykit import eventually, free_ports

RULES = rules.all_of()
EXCEPTIONS = yaml.safe_load((rules.REPOSITORY / "integration-tests/observability/exceptions.yaml").read_text())
PROVOKED = set()


def quick(expr: str) -> str:
    """The same over ten seconds, and without hours of the past."""
    return re.sub(r" offset \w+", "", re.sub(r"\[\w+\]", "[10s]", expr))


def fires(world, name: str, within_s: float = 40.0, **labels: str) -> None:
    """The alert's expression has a series with these labels before long."""
    PROVOKED.add(name)
    expr = quick(RULES[name]["expr"])

    def told():
        return any(labels.items() <= series["metric"].items() for series in world.prometheus.value(expr))

    try:
        eventually(told, within=within_s, what=f"{name} for {labels}")
    except AssertionError as error:
        raise AssertionError(f"{error}: {world.prometheus.value(expr)}") from None


def is_calm(world, name: str, within_s: float = 40.0) -> None:
    eventually(lambda: not world.prometheus.value(quick(RULES[name]["expr"])), within=within_s, what=f"{name} is over")


@pytest.fixture(scope="module")
def quiet(world):
    """The cluster without its load: trouble is all that happens."""
    world.load.stop()
    assert not world.load.errors, world.load.errors
    a = world.sidecars[0]
    a.register([f"dead::{number}" for number in range(50)], "registered/dead")
    return world


@pytest.fixture(scope="module")
def small(quiet):
    """A sidecar for itself with the smallest limits, whose cache and collector are not there."""
    cache, collector = free_ports(2)
    return quiet.alone(
        "small", "--cache", f"memcached://127.0.0.1:{cache}?timeout=100ms", "--purge-retry-addresses-max", "10",
        "--limits-classes-max", "256", "--limits-classes-per-top-max", "256", "--limits-registrations-max", "100",
        "--config", str(quiet.config), OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{collector}",
        OTEL_TRACES_SAMPLER="always_on", OTEL_BSP_SCHEDULE_DELAY="200",
    )  # fmt: skip


def test_a_member_that_hangs(quiet):
    """It is stopped, not ended: it keeps its connections and its seat, and says nothing."""
    a, _, c = quiet.sidecars[:3]
    c.pause()
    try:
        # While its grants hold; once they have lapsed, it cannot serve what is stale, and receipts do without it.
        answer = a.invalidate("slow/receipt", receipt=types.RECEIPT_LEVEL_ALL, timeout_ms=300)
        assert not answer.receipt.satisfied
        # Somebody has not acknowledged it.
        has_risen([a], "receipts_missed", "gossip_nudges")
        fires(quiet, "GrapevineReceiptsMissed", instance=a.metrics)
        fires(quiet, "GrapevineDown", instance=c.metrics)
        fires(quiet, "GrapevineFreshnessUnknown", instance=a.metrics, state="unknown")
        fires(quiet, "GrapevineNotFresh", instance=a.metrics)
        # They are noted a hundred times a second at most.
        for number in range(40):
            a.invalidate(f"slow/{number}")
            time.sleep(0.011)
        fires(quiet, "GrapevineNotConverging", instance=a.metrics, peer="c")
    finally:
        c.resume()
    fires(quiet, "GrapevineConvergenceSlow", instance=a.metrics, peer="c")
    for name in ("GrapevineDown", "GrapevineFreshnessUnknown", "GrapevineNotConverging", "GrapevineReceiptsMissed"):
        is_calm(quiet, name)


def test_a_member_with_other_policies(quiet):
    a, _, c = quiet.sidecars[:3]
    other = quiet.directory / "other.toml"
    other.write_text(worlds.POLICIES.replace("bucketed(8)", "bucketed(16)"))
    before = c.command
    c.command = [str(other) if argument == str(quiet.config) else argument for argument in before]
    c.stop()
    c.start()
    fires(quiet, "GrapevinePoliciesDiffer", instance=a.metrics)
    c.stop()
    c.command = before
    c.start()
    is_calm(quiet, "GrapevinePoliciesDiffer")
    c.wait_fresh(within=40)


def test_a_cache_that_is_gone(quiet):
    a = quiet.sidecars[0]
    quiet.cache.stop()
    with rises([a], "purge_failed", "purge_retried"):
        a.invalidate("registered/dead")
    fires(quiet, "GrapevinePurgeFailing", instance=a.metrics)


def test_a_cluster_that_has_come_apart(quiet, small):
    # As Prometheus sees it: one job, and sidecars that have not the same members.
    fires(quiet, "GrapevineRostersDiffer", job=worlds.JOB)


def test_limits_that_are_reached(quiet, small):
    small.register([f"held::{number}" for number in range(95)], "registered/held")
    for number in range(250):
        small.invalidate(f"class-{number % 5}/{number}")
    fires(quiet, "GrapevineClassesNearLimit", instance=small.metrics)
    fires(quiet, "GrapevineRegistrationsNearLimit", instance=small.metrics)
    with pytest.raises(worlds.grpc.RpcError) as refused:
        small.register([f"more::{number}" for number in range(10)], "registered/more")
    assert refused.value.code() == worlds.grpc.StatusCode.RESOURCE_EXHAUSTED
    has_risen([small], "intake_rejected")
    fires(quiet, "GrapevineCallsRefused", instance=small.metrics)
    with rises([small], "floors_own"):
        for number in range(250, 300):
            small.invalidate(f"class-{number % 5}/{number}")


def test_deletes_that_find_no_cache_and_no_room(quiet, small):
    with rises([small], "purge_expired"):
        small.invalidate("registered/held")
    fires(quiet, "GrapevineQueueNearLimit", instance=small.metrics, queue="purge_retries")
    fires(quiet, "GrapevinePurgesGivenUp", instance=small.metrics)


def test_a_collector_that_is_not_there(quiet, small):
    with rises([small], "spans_dropped"):
        small.invalidate("traced")
    fires(quiet, "GrapevineSpansDropped", instance=small.metrics)


def test_an_audit_that_finds_something(quiet):
    a = quiet.sidecars[0]
    found = worlds.app.ReportReadsRequest(hits=1, audits=1, audit_mismatches=1)
    with rises([a], "audit_mismatches"):
        a.app.ReportReads(found, timeout=a.timeout_s)
    fires(quiet, "GrapevineAuditMismatch", instance=a.metrics)


def test_each_alert_was_brought_about_or_is_an_exception(request):
    if len([item for item in request.session.items if item.module is request.module]) < 9:
        pytest.skip("not all of this file was asked for")
    assert set(RULES) - set(EXCEPTIONS["not_provoked"]) == PROVOKED


def test_each_counter_was_moved_or_is_an_exception(request, world):
    """By the load, by what is done in `test_moved.py`, or by the trouble above."""
    config = request.config
    if config.option.keyword or any(argument.endswith(".py") or "::" in argument for argument in config.args):
        pytest.skip("not all tests were asked for")
    assert set(moves.counters(world.sidecars[0].scraped())) - set(EXCEPTIONS["not_moved"]) == moves.MOVED
