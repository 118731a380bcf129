"""The guide's page of installing, followed to the letter.

The commands are those of the page, in its order. Helm's own engine does what `helm install` asks for, with the page's values; a
DaemonSet is a pod for each of the nodes that they count, in a real container; and what stands behind `kubectl exec ... --` runs
in one of these. A command that nothing here carries out fails the test.
"""

import re
import shlex

import chart
import image
import pods
from kubelet import Kubelet

PAGE = chart.CHART.parent.parent / "docs" / "guide" / "installing.md"


def commands() -> list[list[str]]:
    blocks = re.findall(r"^```\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    # The reader's own registry; nothing is pulled, for the runtime has the image already.
    lines = "".join(blocks).replace("\\\n", " ").replace("REGISTRY", "registry.invalid").splitlines()
    return [shlex.split(line) for line in lines]


def values(options: list[str]) -> dict:
    """What `helm install` is told, as the values that it makes of it."""
    told: dict = {}
    left = iter(options)
    for option in left:
        match option:
            case "--namespace":
                assert next(left) == chart.NAMESPACE
            case "--create-namespace":
                pass
            case "--set":
                for pair in next(left).split(","):
                    path, value = pair.split("=", 1)
                    *outer, name = path.split(".")
                    place = told
                    for key in outer:
                        place = place.setdefault(key, {})
                    place[name] = int(value) if value.isdigit() else value
            case _:
                raise AssertionError(f"helm install {option} is not carried out here")
    return told


class Reader:
    """Whoever follows the page."""

    def __init__(self, runtime):
        self.runtime = runtime
        self.kubelets: list[Kubelet] = []

    def carry_out(self, command: list[str]) -> str:
        match command:
            case ["image/build"]:
                assert image.archive().is_file(), "it is built before the tests run"
            case ["helm", "install", "grapevine", "helm/grapevine", *options]:
                self.install(values(options))
            case ["kubectl", "--namespace", chart.NAMESPACE, "rollout", "status", "daemonset/grapevine"]:
                for kubelet in self.kubelets:
                    kubelet.wait_ready()
            case [
                "kubectl",
                "--namespace",
                chart.NAMESPACE,
                "exec",
                "daemonset/grapevine",
                "--",
                "/grapevine",
                *arguments,
            ]:
                return self.kubelets[0].cli(*arguments).stdout
            case _:
                raise AssertionError(f"{shlex.join(command)} is not carried out here")
        return ""

    def install(self, told: dict) -> None:
        rendered = pods.Rendered(chart.render(told), self.runtime.directory / "guide")
        owner = rendered.owner
        assert (owner["kind"], owner["metadata"]["name"]) == ("DaemonSet", "grapevine")
        for number in range(told["cluster"]["expectedMembers"]):
            pod = rendered.pod(f"guide-{number}", f"node-{number}", self.runtime.address())
            self.kubelets.append(Kubelet(self.runtime, pod))
            self.kubelets[-1].start()

    def close(self) -> None:
        for kubelet in self.kubelets:
            kubelet.ending = True
            kubelet.unprobed()
            self.runtime.remove(kubelet.pod)


def test_the_page_of_installing_leads_to_the_first_invalidation(runtime, monkeypatch):
    # The page's own, where the chart's tests have another.
    monkeypatch.setattr(chart, "NAMESPACE", "grapevine")
    reader = Reader(runtime)
    try:
        told = [(command, reader.carry_out(command)) for command in commands()]
    finally:
        reader.close()

    def of(word: str) -> list[str]:
        return [output for command, output in told if word in command]

    assert len(reader.kubelets) == 3
    (members,) = of("members")
    assert members.count("alive") == 2
    assert members.count("self") == 1
    (invalidated,) = of("invalidate")
    assert "receipt all: reached" in invalidated
    before, after = [output.splitlines()[1].split()[0] for output in of("resolve")]
    assert before != after, "the same question has another answer"
