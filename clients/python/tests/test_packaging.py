"""What is installed: stubs, types, and dependencies that have their reasons."""

from __future__ import annotations

import importlib.metadata
import os
import pathlib
import re
import subprocess
import sys
import zipfile

import pytest

PROJECT = pathlib.Path(__file__).parents[1]


def test_each_dependency_stands_in_the_architecture_with_its_reason_and_nothing_else_does() -> None:
    text = (PROJECT / "pyproject.toml").read_text()
    listed = re.findall(r"^\s*(?:requires|dependencies|[a-z]+) = \[(.*?)\]$", text, re.M | re.S)
    used = {
        match
        for part in listed
        for match in re.findall(r'"([a-z][a-z0-9-]*)(?:[<>=][^"]*)?"', part)
        if re.search(r'"[^"]*[<>=]|"types-', part)
    }
    table = (PROJECT.parents[1] / "ARCHITECTURE.md").read_text().split("## Python packages")[1]
    told = {name.strip() for row in re.findall(r"^\| ([a-z][a-z0-9, -]*) \|", table, re.M) for name in row.split(",")}
    assert used == told - {"package"}
    assert "grpcio" in used


def test_stubs_of_the_same_contract_may_live_in_the_same_process(tmp_path: pathlib.Path) -> None:
    """An application that generated its own: the files keep their names in protobuf's registry."""
    pytest.importorskip("grapevine_client")
    (tmp_path / "own.py").write_text(
        "from google.protobuf import descriptor_pool\n"
        "import grapevine_client\n"
        "from grapevine_client._stubs.grapevine.v1 import application_pb2\n"
        "descriptor_pool.Default().AddSerializedFile(application_pb2.DESCRIPTOR.serialized_pb)\n"
        "assert application_pb2.DESCRIPTOR.name == 'grapevine/v1/application.proto'\n"
        "import sys\n"
        "assert 'grapevine' not in sys.modules\n"
        # Extras are imported where they are used.
        "assert not {'redis', 'pymemcache', 'django', 'fastapi'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, str(tmp_path / "own.py")], check=True, timeout=60)


def test_the_wheel_has_stubs_and_types() -> None:
    wheel = os.environ.get("GRAPEVINE_WHEEL")
    if wheel is None:
        pytest.skip("GRAPEVINE_WHEEL names no wheel")
    with zipfile.ZipFile(wheel) as held:
        names = set(held.namelist())
    stubs = "grapevine_client/_stubs/grapevine/v1/application"
    assert {"grapevine_client/py.typed", f"{stubs}_pb2.py", f"{stubs}_pb2.pyi", f"{stubs}_pb2_grpc.py"} <= names
    assert not [name for name in names if not name.startswith(("grapevine_client/", "grapevine_client-"))]
    assert importlib.metadata.version("grapevine-client") in wheel
