"""The image itself: what is in it, whose it is, what it says of itself."""

import json
import os
import pathlib
import subprocess

import image

USER = 65532
BYTES_MAX = 25_000_000


def git(*arguments: str) -> str:
    command = ["git", "-c", "safe.directory=*", "-C", str(image.ROOT), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def linked(edges: str) -> set[tuple[str, str]]:
    """Names and versions of what cargo would link into the program, and the program."""
    command = ["cargo", "tree", "--locked", "-p", "grapevine", "-e", edges, "--prefix", "none", "--format", "{p}"]
    tree = subprocess.run(command, check=True, capture_output=True, text=True, cwd=image.ROOT).stdout
    return {(line.split()[0], line.split()[1].removeprefix("v")) for line in tree.splitlines() if line}


def test_there_is_one_program_and_hardly_anything_else():
    files = {name for name, (info, _) in image.members().items() if not info.isdir()}
    assert files == {
        "/grapevine",
        "/usr/share/grapevine/LICENSE-APACHE",
        "/usr/share/grapevine/LICENSE-MIT",
        "/usr/share/grapevine/sbom.cdx.json",
    }


def test_it_is_small():
    unpacked = sum(info.size for info, _ in image.members().values())
    packed = sum(layer["size"] for layer in image.manifest()["layers"])
    print(f"{unpacked} bytes, {packed} compressed")
    assert unpacked < BYTES_MAX


def test_the_program_is_static_and_stripped(tmp_path):
    program = tmp_path / "grapevine"
    program.write_bytes(image.members()["/grapevine"][1])
    told = subprocess.run(
        ["readelf", "-W", "--program-headers", "--dynamic", "--sections", program],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert "INTERP" not in told
    assert "(NEEDED)" not in told
    assert ".symtab" not in told
    assert ".debug" not in told


def test_no_path_of_who_built_it_is_in_there():
    content = image.members()["/grapevine"][1]
    home = os.environ.get("CARGO_HOME", str(pathlib.Path.home() / ".cargo"))
    for path in (str(image.ROOT), home, str(image.directory().parent)):
        assert path.encode() not in content, path
    sbom = image.members()["/usr/share/grapevine/sbom.cdx.json"][1].decode()
    assert "/tmp" not in sbom
    assert str(image.ROOT) not in sbom


def test_it_runs_as_nobody_s_user():
    config = image.config()["config"]
    assert config["User"] == f"{USER}:{USER}"
    assert config["Entrypoint"] == ["/grapevine"]
    assert config["Cmd"] == ["sidecar"]
    for name, (info, _) in image.members().items():
        data = name == "/var/lib/grapevine"
        assert (info.uid, info.gid) == ((USER, USER) if data else (0, 0)), name
        assert info.mode & 0o022 == 0, f"{name} can be written by others: {info.mode:o}"
    assert list(config["Volumes"]) == ["/var/lib/grapevine"]
    assert "GRAPEVINE_STORE_PATH=/var/lib/grapevine" in config["Env"]


def test_it_says_what_it_is():
    labels = {
        key.removeprefix("org.opencontainers.image."): value
        for key, value in image.config()["config"]["Labels"].items()
    }
    assert labels["title"] == "grapevine"
    assert labels["description"]
    assert labels["licenses"] == "MIT OR Apache-2.0"
    manifest = (image.ROOT / "Cargo.toml").read_text()
    assert f'version = "{labels["version"]}"' in manifest
    # An image of an earlier commit, or of files that are in none, would be told by this.
    revision = labels["revision"].removesuffix("-modified")
    assert revision == git("rev-parse", "HEAD")
    created = subprocess.run(
        ["date", "-u", "-d", "@" + git("log", "-1", "--format=%ct"), "+%Y-%m-%dT%H:%M:%SZ"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert labels["created"] == created.stdout.strip()
    assert image.config()["created"] == labels["created"]


def test_the_digest_beside_it_is_its_own():
    assert (image.directory() / "digest").read_text().strip() == image.digest()


def test_the_bill_of_materials_is_what_cargo_says():
    content = image.members()["/usr/share/grapevine/sbom.cdx.json"][1]
    assert content == (image.directory() / "sbom.cdx.json").read_bytes()
    sbom = json.loads(content)
    assert sbom["bomFormat"] == "CycloneDX"
    assert sbom["metadata"]["component"]["name"] == "grapevine"
    told = {(each["name"], each["version"]) for each in sbom["components"]}
    assert len(told) == len(sbom["components"])
    assert linked("normal,no-proc-macro") - {("grapevine", sbom["metadata"]["component"]["version"])} <= told
    # Macros are listed, though nothing of them is left. So is a crate that cargo's graph has only because it unites the features
    # of the whole workspace, where a build script's wants it.
    assert {name for name, _ in told - linked("normal")} == {"glibc", "rust-std", "aho-corasick"}
    for each in sbom["components"]:
        assert each.get("licenses"), f"{each['name']} has no licence"
