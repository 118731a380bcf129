"""Pod security: the restricted profile of the Pod Security Standards, and checkov."""

import json
import subprocess
import sys

import pytest
import yaml

import chart

CI = chart.ci_values()
SKIPS = chart.parse((chart.HERE / "checkov-skips.yaml").read_text())[0]

# What no profile but `privileged` takes, by values file, and why.
NOT_RESTRICTED = {
    "host-port": ["hostPort"],
    "host-path": ["hostPath"],
    "socket": ["hostPath", "runAsUser 0", "runAsNonRoot", "adds CHOWN"],
}


def restricted(pod: dict) -> list[str]:
    """What the restricted profile, which includes the baseline one, has against a pod. https://kubernetes.io/docs/concepts/security/pod-security-standards/"""
    found = set()
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(field):
            found.add(field)
    allowed = {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
    for volume in pod.get("volumes", []):
        found |= set(volume) - {"name"} - allowed
    whole = pod.get("securityContext", {})
    if whole.get("sysctls"):
        found.add("sysctls")
    for container in pod.get("initContainers", []) + pod["containers"]:
        own = container.get("securityContext", {})

        def of(key, own=own):
            return own.get(key, whole.get(key))

        capabilities = own.get("capabilities", {})
        if own.get("privileged"):
            found.add("privileged")
        if own.get("allowPrivilegeEscalation") is not False:
            found.add("allowPrivilegeEscalation")
        if of("runAsNonRoot") is not True:
            found.add("runAsNonRoot")
        if of("runAsUser") == 0:
            found.add("runAsUser 0")
        if (of("seccompProfile") or {}).get("type") not in ("RuntimeDefault", "Localhost"):
            found.add("seccompProfile")
        if "ALL" not in capabilities.get("drop", []):
            found.add("drops not ALL")
        found |= {f"adds {each}" for each in capabilities.get("add", []) if each != "NET_BIND_SERVICE"}
        if own.get("procMount", "Default") != "Default":
            found.add("procMount")
        if any(port.get("hostPort") for port in container.get("ports", [])):
            found.add("hostPort")
    return sorted(found)


@pytest.mark.parametrize("name", CI)
def test_pods_pass_the_restricted_profile(name):
    # Of all of them: each must pass, but for what is listed, and what is listed must be so.
    found = set()
    for _, pod in chart.pods(chart.render(CI[name])):
        found |= set(restricted(pod))
    assert sorted(found) == sorted(NOT_RESTRICTED.get(name, []))


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ({"securityContext": {"allowPrivilegeEscalation": True}}, "allowPrivilegeEscalation"),
        ({"securityContext": {"runAsNonRoot": False}}, "runAsNonRoot"),
        ({"securityContext": {"runAsUser": 0}}, "runAsUser 0"),
        ({"securityContext": {"seccompProfile": {"type": "Unconfined"}}}, "seccompProfile"),
        ({"securityContext": {"capabilities": {"drop": []}}}, "drops not ALL"),
        ({"securityContext": {"capabilities": {"add": ["SYS_ADMIN"]}}}, "adds SYS_ADMIN"),
        ({"securityContext": {"privileged": True}}, "privileged"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_the_profile_s_rules_bite(more, what):
    objects = chart.render(chart.merged(chart.LEAST, more))
    assert what in restricted(chart.of_kind(objects, "DaemonSet")["spec"]["template"]["spec"])


def test_no_token_is_mounted():
    for name, values in CI.items():
        for who, pod in chart.pods(chart.render(values)):
            assert pod["automountServiceAccountToken"] is False, (name, who)


@pytest.fixture(scope="module")
def scanned(tmp_path_factory) -> dict[str, set[str]]:
    """Which checks failed, and which resources failed them, over the renders of all values files at once."""
    directory = tmp_path_factory.mktemp("renders")
    for name, values in CI.items():
        documents = chart.render(values)
        # One namespace for each, or equal names would be taken for one thing.
        for each in documents:
            each["metadata"]["namespace"] = name
        (directory / f"{name}.yaml").write_text(yaml.safe_dump_all(documents))
    command = [sys.executable, "-m", "checkov.main", "--directory", directory, "--framework", "kubernetes"]
    command += ["--output", "json", "--quiet", "--compact", "--skip-download"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    report = json.loads(done.stdout)
    assert report["summary"]["parsing_errors"] == 0, done.stdout[-2000:]
    assert report["summary"]["resource_count"] > 100, done.stdout[-2000:]
    failed = {}
    for each in report["results"]["failed_checks"]:
        failed.setdefault(each["check_id"], set()).add(each["resource"])
    return failed


def test_checkov_finds_nothing_that_is_not_explained(scanned):
    unexplained = {check: sorted(who)[:5] for check, who in scanned.items() if check not in SKIPS}
    assert unexplained == {}


def test_no_explanation_is_about_nothing(scanned):
    assert sorted(SKIPS) == sorted(check for check in SKIPS if check in scanned)


def test_what_is_only_of_some_is_explained_for_those_alone(scanned):
    for check, skip in SKIPS.items():
        if "only" in skip:
            others = [who for who in scanned[check] if not any(only in who for only in skip["only"])]
            assert others == [], (check, others)
