"""What the chart renders, started as it is: three pods from the real image, on a network of their own.

Each mode is one story, whose parts are tests in this order: the cluster forms, it serves, one is killed, all are replaced.
"""

import itertools
import os
import pathlib
import time
import urllib.request

import pytest

import pods
from kubelet import Kubelet
from load import Load
from pykit import eventually

MODES = {"daemonset": pods.daemonset, "in-pod": pods.in_pod}
COUNT = 3
# After a crash: nobody is fresh until it is back or has lost its seat, which takes `freshness.crash_timeout` (5 s).
FRESH_S = 30
# Of the reads while pods are replaced one after the other, at those that have been fresh: where it is less, they lose track of each
# other whenever one comes or goes. On two busy cores it was 0.99 and 0.966 at the least.
FRESH_SHARE = {"daemonset": 0.97, "in-pod": 0.85}
# Until a newcomer that is ready is fresh. In-pod it has no seat yet, which took it 0.94 s at the longest; until then its reads pass
# the cache by. That is bounded in seconds, for what share of all reads it is depends on how fast the pods follow each other: 1 to
# 14 %. Both bounds are below `freshness.crash_timeout` (5 s): that it is waited for shows.
NEWCOMER_S = {"daemonset": 2, "in-pod": 4}


class Story:
    """A release and its pods."""

    def __init__(self, mode: str, runtime):
        self.mode = mode
        self.runtime = runtime
        self.rendered = MODES[mode](runtime.directory / mode)
        self.numbers = itertools.count()
        self.kubelets: list[Kubelet] = []
        self.load = Load()
        self.ends: list[str] = []

    def new(self, node: str) -> Kubelet:
        """The next pod for a node: a new name and a new address."""
        pod = self.rendered.pod(f"{self.mode}-{next(self.numbers)}", node, self.runtime.address())
        kubelet = Kubelet(self.runtime, pod)
        self.kubelets.append(kubelet)
        kubelet.start()
        return kubelet

    def joins(self, kubelet: Kubelet) -> None:
        kubelet.wait_ready()
        self.load.add(kubelet)

    def leaves(self, kubelet: Kubelet) -> None:
        took = kubelet.end()
        self.ends.append(f"{took:.1f} s" + (f", its hook with {kubelet.hook_code}" if kubelet.pod.pre_stop else ""))
        self.load.remove(kubelet)
        self.kubelets.remove(kubelet)
        self.rendered.removed(kubelet.pod)

    def members(self, count: int = COUNT) -> None:
        """Each of them sees so many, by the command line in its container."""
        for kubelet in self.kubelets:
            kubelet.cli("members", "--expect", str(count), "--timeout", "30s")
            kubelet.cli("status", "--wait-fresh", "30s")

    def no_problems(self) -> None:
        assert [problem for kubelet in self.kubelets for problem in kubelet.problems] == []

    def close(self) -> None:
        for kubelet in self.kubelets:
            kubelet.ending = True
        self.load.stop()
        for kubelet in self.kubelets:
            kubelet.unprobed()
            self.runtime.remove(kubelet.pod)


def store(kubelet: Kubelet) -> int:
    """Which directory the sidecar keeps its events in: another one means that it began with nothing."""
    (source,) = [source for source, place, _ in kubelet.pod.container.mounts if place == "/var/lib/grapevine"]
    return os.stat(source / "sled").st_ino


@pytest.fixture(scope="module", params=MODES)
def story(request, runtime):
    told = Story(request.param, runtime)
    yield told
    told.close()


@pytest.fixture(autouse=True)
def logs(request, story):
    """What the sidecars said, if a part of the story fails."""
    failed = request.session.testsfailed
    yield
    if request.session.testsfailed > failed:
        for kubelet in story.kubelets:
            print(f"== {kubelet.pod.name}\n{story.runtime.log(kubelet.pod)}")


def test_the_cluster_forms(story):
    for number in range(COUNT):
        story.new(f"node-{number}")
    for kubelet in story.kubelets:
        story.joins(kubelet)
    story.members()
    assert all(kubelet.probed[kind] for kubelet in story.kubelets for kind in ("startup", "liveness", "readiness"))
    story.no_problems()


def test_they_run_as_the_template_says(story):
    """Of the process itself, as the kernel has it."""
    for kubelet in story.kubelets:
        pid = story.runtime.pid(kubelet.pod)
        status = dict(
            line.split(":\t", 1)
            for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
            if ":\t" in line
        )
        assert set(status["Uid"].split()) == {"65532"}
        assert set(status["Gid"].split()) == {"65532"}
        assert {status[kind] for kind in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {"0000000000000000"}
        assert status["NoNewPrivs"] == "1"
        mounts = [line.split() for line in pathlib.Path(f"/proc/{pid}/mounts").read_text().splitlines()]
        root = [each for each in mounts if each[1] == "/" or each[1].endswith(f"/roots/{kubelet.pod.name}")][-1]
        config, data = (
            [each for each in mounts if each[1].endswith(place)][-1]
            for place in ("/etc/grapevine", "/var/lib/grapevine")
        )
        assert root[3].split(",")[0] == "ro"
        assert config[3].split(",")[0] == "ro"
        assert data[3].split(",")[0] == "rw"
        if story.runtime.kind == "podman":
            assert status["Seccomp"] == "2"
            assert status["CapBnd"] == "0000000000000000"


def test_it_serves(story):
    look_up = ["resolve", "--class", "get_items_in_cart/13", "get_items_in_cart::13:10:30"]
    before = [kubelet.cli(*look_up).stdout.splitlines()[1].split()[0] for kubelet in story.kubelets]
    story.kubelets[0].cli("invalidate", "--receipt", "all", "get_items_in_cart/13")
    after = [kubelet.cli(*look_up).stdout.splitlines()[1].split()[0] for kubelet in story.kubelets]
    assert len(set(before)) == len(set(after)) == 1
    assert before != after
    told = story.load.judged()
    eventually(
        lambda: story.load.since(told)["invalidated"] > 5 and story.load.since(told)["fresh"] > 50,
        within=30,
        what="reads and writes of the load",
    )
    story.load.judged()


def test_metrics_are_scraped(story):
    for kubelet in story.kubelets:
        listen = kubelet.pod.container.env["GRAPEVINE_METRICS_LISTEN"].rpartition(":")[2]
        with urllib.request.urlopen(f"http://{kubelet.pod.ip}:{listen}/metrics", timeout=10) as answer:
            assert b"grapevine_uptime_seconds" in answer.read()


def test_helm_test_passes(story):
    """The test's pod, which finds the others by their Service's name."""
    if story.mode == "in-pod":
        pytest.skip("a chart that depends on this one has no test pod of its own pods")
    pod = story.rendered.test_pod("test", story.runtime.address())
    story.runtime.start(pod)
    try:
        eventually(lambda: story.runtime.exit_code(pod) is not None, within=90, what="the test's pod ends")
        assert story.runtime.exit_code(pod) == 0, story.runtime.log(pod)
        assert "node-0" in story.runtime.log(pod)
    finally:
        story.runtime.remove(pod)


def test_one_is_killed_and_started_again(story):
    victim = story.kubelets[1]
    kept = store(victim)
    victim.cli("invalidate", "--receipt", "none", "said/before/it/died")
    before = story.load.judged()
    victim.kill()
    story.load.remove(victim)
    eventually(
        lambda: story.load.since(before)["fresh"] + story.load.since(before)["unknown"] > 100,
        within=30,
        what="the others serve",
    )
    victim.restart()
    victim.wait_ready()
    story.load.add(victim)
    story.members()
    assert kept == store(victim)
    # Whoever had it on disk, nobody lost it.
    classes = story.kubelets[0].cli("classes", "said").stdout
    assert "said/before/it/died" in classes, classes
    now = story.load.judged()
    eventually(
        lambda: all(story.load.since(now)[f"fresh at {each.pod.name}"] > 20 for each in story.kubelets),
        within=FRESH_S,
        what="they are fresh",
    )
    story.load.judged()
    story.no_problems()


def test_all_are_replaced_one_after_the_other(story):
    before = story.load.judged()
    begun = time.monotonic()
    story.ends.clear()
    for old in list(story.kubelets):
        if story.mode == "daemonset":
            # No surge: the pod of a node goes first, and the node's directory stays.
            strategy = story.rendered.owner["spec"]["updateStrategy"]
            assert strategy == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}}
            kept = store(old)
            story.leaves(old)
            new = story.new(old.pod.node)
            story.joins(new)
            assert kept == store(new)
            held = time.monotonic() + story.rendered.owner["spec"]["minReadySeconds"]
            while time.monotonic() < held:
                assert new.ready, f"{new.pod.name} was ready, and is not any more"
                time.sleep(0.05)
        else:
            # A Deployment of three, by its defaults: one more at first, and then one less.
            assert "strategy" not in story.rendered.owner["spec"]
            new = story.new(old.pod.node)
            story.joins(new)
            story.leaves(old)
    took = time.monotonic() - begun
    told = story.load.since(before)
    newcomers = list(story.load.members.values())
    eventually(
        lambda: all(each.fresh_after_s is not None for each in newcomers),
        within=NEWCOMER_S[story.mode],
        what="the last newcomer is fresh",
    )
    # All of it may take a second or two, and a write waits while a seat is given.
    eventually(
        lambda: story.load.since(before)["invalidated"] > 20 and story.load.since(before)["fresh"] > 200,
        within=30,
        what="calls go on",
    )
    fresh_after_s = [round(each.fresh_after_s, 2) for each in newcomers]
    print(f"{took:.0f} s, {len(story.ends)} ends: {'; '.join(story.ends)}; fresh after {fresh_after_s} s; {dict(told)}")
    story.load.judged()
    story.members()
    story.no_problems()
    share = told["fresh"] / (told["fresh"] + told["unknown"] + told["bypassed"])
    assert share > FRESH_SHARE[story.mode], f"{share:.3f} of the reads were answered as fresh: {dict(told)}"
    assert max(fresh_after_s) < NEWCOMER_S[story.mode], f"newcomers were fresh after {fresh_after_s} s: {dict(told)}"
    # All that there was is known to those who have nothing from before but what they were told.
    classes = story.kubelets[0].cli("classes", "said").stdout
    assert "said/before/it/died" in classes, classes
