"""Writes anew what is made from something else: the schema's knobs, the README's table, the golden renders. Look at the diff."""

import json

import chart
import knobs


def main() -> None:
    schema = chart.schema()
    schema["properties"]["config"] = knobs.config_schema()
    (chart.CHART / "values.schema.json").write_text(json.dumps(schema, indent=2) + "\n")

    readme = chart.CHART / "README.md"
    readme.write_text(chart.with_table(readme.read_text()))

    chart.GOLDEN.mkdir(exist_ok=True)
    names = chart.ci_values()
    for path in chart.GOLDEN.glob("*.yaml"):
        if path.stem not in names:
            path.unlink()
    for name, values in names.items():
        (chart.GOLDEN / f"{name}.yaml").write_text(chart.golden(values))
    print(f"renewed: the knobs of values.schema.json, the table of README.md, {len(names)} golden renders")


if __name__ == "__main__":
    main()
