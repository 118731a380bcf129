"""The sidecar's knobs, as the program itself tells them, and their part of the schema."""

import re
import subprocess

import tomllib

import chart

# What the chart decides: who a sidecar is, where it listens and is found, where its data is, how it ends, which caches.
OF_THE_CHART = {
    "node.id",
    "cluster.name",
    "cluster.expected_members",
    "app.unix",
    "app.unix_mode",
    "app.tcp",
    "peer.listen",
    "peer.advertise",
    "gossip.listen",
    "gossip.advertise",
    "gossip.seeds",
    "store.path",
    "health.listen",
    "metrics.listen",
    "drain.timeout",
    "cache.url",
}


def told() -> str:
    done = subprocess.run([chart.BIN, "sidecar", "--print-default-config"], capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stderr
    return done.stdout


def all_knobs() -> dict[str, tuple[object, str]]:
    """The default and the explanation of each knob, by `section.key`."""
    text = told()
    defaults = tomllib.loads(text)
    found, section, comment = {}, None, []
    for line in text.splitlines():
        if line.startswith("# "):
            comment.append(line[2:])
        elif match := re.fullmatch(r"\[(\w+)\]", line):
            section, comment = match[1], []
        elif (match := re.match(r"(\w+) = ", line)) and section != "policy_default":
            found[f"{section}.{match[1]}"] = (defaults[section][match[1]], " ".join(comment))
            comment = []
        elif not line:
            comment = []
    return found


def one(default, explanation: str) -> dict:
    """The schema of a knob: its kind follows from its default, its limits from what is told."""
    what = re.sub(r" Raising it .*| \((?:[^()]*; )?--.*", "", explanation)
    limits = re.search(r"\((\S+) to (\S+); --", explanation)
    if isinstance(default, int):
        low, high = (int(limits[1]), int(limits[2])) if limits else (0, 2**53)
        return {"description": what, "type": "integer", "minimum": low, "maximum": high}
    if isinstance(default, list):
        return {"description": what, "type": "array", "maxItems": 64, "items": {"type": "string", "minLength": 1}}
    kind = {"type": "string"}
    if limits:
        kind = {"$ref": "#/definitions/" + ("bytes" if re.search(r"B$", limits[1]) else "duration")}
        what += f" {limits[1]} to {limits[2]}."
    # Beside `$ref`, draft 7 looks at nothing.
    return {"description": what, "allOf": [kind]} if "$ref" in kind else {"description": what, **kind}


def config_schema() -> dict:
    sections = {}
    for name, (default, explanation) in all_knobs().items():
        if name not in OF_THE_CHART:
            section, key = name.split(".")
            sections.setdefault(section, {})[key] = one(default, explanation)

    def closed(properties):
        return {"type": "object", "additionalProperties": False, "properties": properties}

    return closed({section: closed(keys) for section, keys in sections.items()})
