"""Every value does something: another one changes what is rendered, in the place that it is for."""

import difflib

import pytest

import chart

FLIPS = chart.parse((chart.HERE / "flips.yaml").read_text())[0]
# Values that change nothing, with the reason. There are none.
IDLE: dict[str, str] = {}

VALUES = [path for path in chart.leaves(chart.default_values()) if not path.startswith("config.")]
KNOBS = [
    (f"config.{section}.{key}", part)
    for section, keys in chart.schema()["properties"]["config"]["properties"].items()
    for key, part in keys["properties"].items()
]


def differences(before: dict, after: dict) -> tuple[list[str], list[str]]:
    """The lines that are gone and that are new, of all but the notes."""
    lines = []
    for values in (before, after):
        made = chart.texts(values)
        lines.append(
            [line for path, text in made.items() if not path.endswith("NOTES.txt") for line in text.splitlines()]
        )
    changes = [line for line in difflib.ndiff(*lines) if line[:2] in ("- ", "+ ")] if lines[0] != lines[1] else []

    def pick(sign):
        return [line[2:] for line in changes if line[0] == sign]

    return pick("-"), pick("+")


def test_every_value_is_tried_and_nothing_else():
    assert set(FLIPS) | set(IDLE) == set(VALUES)


@pytest.mark.parametrize("path", FLIPS)
def test_another_value_changes_what_is_rendered(path):
    flip = FLIPS[path]
    assert set(flip) <= {"to", "with", "shows", "hides"}
    before = chart.merged(chart.LEAST, flip.get("with", {}))
    gone, new = differences(before, chart.merged(before, chart.at(path, flip["to"])))
    assert gone or new, "it changes nothing"
    shows = flip.get("shows", None if "hides" in flip else str(flip["to"]))
    if shows is not None:
        assert any(shows in line for line in new), (shows, new)
    if "hides" in flip:
        assert any(flip["hides"] in line for line in gone), (flip["hides"], gone)


@pytest.mark.parametrize(("path", "part"), KNOBS, ids=[path for path, _ in KNOBS])
def test_every_knob_goes_into_the_file(path, part):
    _, key = path.split(".")[1:]
    reference = (part.get("allOf") or [{}])[0].get("$ref", "")
    if part.get("type") == "integer":
        value, written = part["maximum"], str(part["maximum"])
    elif part.get("type") == "array":
        value, written = ["a:b"], '["a:b"]'
    else:
        value = "7MiB" if reference.endswith("bytes") else "77s" if reference.endswith("duration") else "debug"
        written = f'"{value}"'
    _, new = differences(chart.LEAST, chart.merged(chart.LEAST, chart.at(path, value)))
    assert f"{key} = {written}" in [line.strip() for line in new], new


def test_the_defaults_are_within_the_schema_but_for_what_must_be_said():
    assert chart.render(chart.LEAST)
    values = chart.chart().merge_values({})
    assert values["cluster"]["expectedMembers"] == 0
