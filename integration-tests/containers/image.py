"""The image as image/build leaves it: an OCI archive."""

import functools
import hashlib
import io
import json
import os
import pathlib
import tarfile

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


def directory() -> pathlib.Path:
    target = os.environ.get("CARGO_TARGET_DIR", "target")
    return pathlib.Path(os.environ.get("GRAPEVINE_IMAGE", ROOT / target / "image-out"))


def archive() -> pathlib.Path:
    return directory() / "grapevine.tar"


@functools.cache
def blobs() -> dict[str, bytes]:
    """The archive's files by name."""
    with tarfile.open(archive()) as opened:
        return {each.name.removeprefix("./"): opened.extractfile(each).read() for each in opened if each.isfile()}


def blob(digest: str) -> bytes:
    content = blobs()["blobs/" + digest.replace(":", "/")]
    assert "sha256:" + hashlib.sha256(content).hexdigest() == digest
    return content


def digest() -> str:
    (manifest,) = json.loads(blobs()["index.json"])["manifests"]
    return manifest["digest"]


def manifest() -> dict:
    return json.loads(blob(digest()))


def config() -> dict:
    return json.loads(blob(manifest()["config"]["digest"]))


def members() -> dict[str, tuple[tarfile.TarInfo, bytes]]:
    """What is in the root directory, in all layers; nothing is removed in a later one."""
    found = {}
    for layer in manifest()["layers"]:
        with tarfile.open(fileobj=io.BytesIO(blob(layer["digest"]))) as opened:
            for each in opened:
                name = "/" + each.name.strip("./")
                assert not name.rpartition("/")[2].startswith(".wh."), name
                found[name] = (each, opened.extractfile(each).read() if each.isfile() else b"")
    return found


def load(podman) -> str:
    """Gives it to podman, and answers what podman calls it."""
    podman("load", "--input", archive())
    return f"localhost/grapevine:{config()['config']['Labels']['org.opencontainers.image.version']}"


def extract(to: pathlib.Path) -> None:
    """The root directory as a container has it, for those who run without one."""
    for name, (info, content) in sorted(members().items()):
        path = to / name[1:]
        if info.isdir():
            path.mkdir(exist_ok=True)
        else:
            assert info.isfile(), f"{name} is neither a file nor a directory"
            path.write_bytes(content)
        os.chown(path, info.uid, info.gid)
        path.chmod(info.mode)
