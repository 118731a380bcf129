"""Generates the gRPC stubs from proto/ when the package is built.

In a checkout the contract lies beside the other clients, in an sdist beside this file: the sdist takes it along, so that a wheel
can be built from either. The files keep their names in protobuf's registry (`grapevine/v1/...`), so that an application that
has stubs of its own of the same contract runs in the same process; only as Python modules they move into this package.
"""

import pathlib
import re
import shutil
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PROTOS = ("types", "explain", "application", "admin")
PACKAGE = "grapevine_client._stubs"


class Stubs(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = pathlib.Path(self.root)
        repository = root.parent.parent
        inside = root / "proto"
        protos = inside if inside.is_dir() else repository / "proto"
        if not (protos / "grapevine" / "v1" / "application.proto").is_file():
            raise FileNotFoundError(f"the contract is neither in {inside} nor in {repository / 'proto'}")
        if self.target_name == "sdist":
            if protos != inside:
                for name in PROTOS:
                    path = f"grapevine/v1/{name}.proto"
                    build_data["force_include"][str(protos / path)] = f"proto/{path}"
                for name in ("LICENSE-APACHE", "LICENSE-MIT"):
                    build_data["force_include"][str(repository / name)] = name
            return
        generate(protos, root / "src" / "grapevine_client" / "_stubs")


def generate(protos: pathlib.Path, out: pathlib.Path) -> None:
    import grpc_tools
    from grpc_tools import protoc

    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    well_known = pathlib.Path(grpc_tools.__file__).parent / "_proto"
    files = [f"grapevine/v1/{name}.proto" for name in PROTOS]
    arguments = [
        "protoc",
        f"-I{protos}",
        f"-I{well_known}",
        f"--python_out={out}",
        f"--pyi_out={out}",
        f"--grpc_python_out={out}",
        *files,
    ]
    if protoc.main(arguments) != 0:
        raise RuntimeError(f"protoc failed: {' '.join(arguments)}")
    for directory in (out, out / "grapevine", out / "grapevine" / "v1"):
        (directory / "__init__.py").touch()
    for path in out.rglob("*.py*"):
        if path.suffix in (".py", ".pyi"):
            text = path.read_text()
            path.write_text(
                re.sub(r"^from grapevine\.v1 import", f"from {PACKAGE}.grapevine.v1 import", text, flags=re.M)
            )


if __name__ == "__main__":
    # For work on the package itself: `python hatch_build.py` makes src/ importable as it is.
    here = pathlib.Path(__file__).resolve().parent
    generate(here.parent.parent / "proto", here / "src" / "grapevine_client" / "_stubs")
