"""Build the image without a builder: ``image.py WHEEL FOLDER [--base ROOT.tar | --tree]``, by the Python that is to be in it.

Writes ``stackd_VERSION_ARCH.oci.tar``, an OCI archive of two layers: this machine's Python with the libraries that it loads, and
stackd with what requirements.lock pins, by hash. No shell is in it. ``--base`` takes the first layer from an archive of a root
file system that has this Python, ``--tree`` writes the files only, for the Containerfile. Beside it is the bill of materials,
with the digest. Reads SOURCE_DATE_EPOCH; the same commit and machine give the same bytes.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from sbom import bill, component

ROOT = Path(__file__).parents[1]
USER = 10001
SITE, PROGRAM = "usr/lib/stackd", "usr/bin/stackd"
PYTHON = os.path.realpath(sys.executable)
EPOCH = int(os.environ["SOURCE_DATE_EPOCH"])
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
NOT_OF_STDLIB = ("test", "tests", "idlelib", "tkinter", "turtledemo", "ensurepip", "config-*", "*cache__", "*-packages")
NEVER_IMPORTED = "/(pip|pygments|markdown_it)/|kubernetes/(aio/)?client/(api|models)/[a-z]"
# as in the systemd unit, which says why
MALLOC = ["MALLOC_MMAP_THRESHOLD_=131072", "MALLOC_TRIM_THRESHOLD_=131072"]
FILES = {
    "etc/passwd": f"root:x:0:0::/:\nstackd:x:{USER}:{USER}::/var/lib/stackd:\n",
    "etc/group": f"root:x:0:\nstackd:x:{USER}:\n",
    "etc/nsswitch.conf": "hosts: files dns\n",
    PROGRAM: f"#!{PYTHON} -IBXfaulthandler\nimport sys\n\nsys.path.insert(0, '/{SITE}')\n"
    "from stackd.cli import main\n\nsys.exit(main())\n",
}


def ran(*command: str | Path, check: bool = True, **environment: str) -> str:
    """What the command prints; without ``check``, it may fail, and its errors are not shown."""
    env, errors = os.environ | environment, None if check else subprocess.DEVNULL
    return subprocess.run(command, stdout=-1, stderr=errors, text=True, check=check, env=env).stdout  # noqa: S603


def install(wheel: Path, tree: Path) -> None:
    """Put stackd and its packages into the tree: wheels only, with the hashes of the lock."""
    pip = [sys.executable, "-m", "pip", "-qq", "--disable-pip-version-check", "install", "--no-deps", "--no-compile"]
    pip += ["--root-user-action", "ignore", "--target", str(tree / SITE), "--only-binary", ":all:"]
    ran(*pip, "--require-hashes", "--requirement", ROOT / "requirements.lock")
    ran(*pip, wheel)
    for unneeded in ("bin", "setuptools", "_distutils_hack", "distutils-precedence.pth"):
        path = tree / SITE / unneeded
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    for name, text in FILES.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)
    (tree / PROGRAM).chmod(0o755)
    (tree / "var/lib/stackd").mkdir(parents=True)


def compile_all(tree: Path, folder: str) -> None:
    """Compile below that folder, as the root file system is read-only where it runs."""
    how = ("-q", "-x", NEVER_IMPORTED, "--invalidation-mode", "unchecked-hash", "-s", tree, "-p", "/")
    ran(PYTHON, "-m", "compileall", *how, tree / folder, PYTHONHASHSEED="0")


def add_python(site: Path, tree: Path) -> list[Path]:
    """Copy this Python, its library, the shared libraries of both and of ``site``, and the authorities; returns them."""
    library = Path(sysconfig.get_path("stdlib"))
    shutil.copytree(library, tree / str(library)[1:], ignore=shutil.ignore_patterns(*NOT_OF_STDLIB))
    binaries = [Path(PYTHON), *library.rglob("lib-dynload/*.so"), *site.rglob("*.so*")]
    told = ran("ldd", *binaries, check=False)
    loaded = {Path(path) for path in re.findall(r"^\s+(?:\S+ => )?(/\S+) \(", told, re.MULTILINE)}
    loaded = {path for path in loaded if site not in path.parents}
    copied = [Path(PYTHON), *sorted(loaded), Path("/etc/ssl/certs/ca-certificates.crt")]
    for path in copied:
        target = tree / str(path.parent.resolve() / path.name)[1:]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path.resolve(), target)
    for name in ("lib", "lib64", "bin"):
        if Path("/", name).is_symlink():
            (tree / name).symlink_to(os.readlink(f"/{name}"))
    (tree / "usr/lib/ssl").mkdir(parents=True, exist_ok=True)
    (tree / "usr/lib/ssl/cert.pem").symlink_to("/etc/ssl/certs/ca-certificates.crt")
    return [*copied, library / "asyncio/__init__.py"]


def layer(tree: Path) -> bytes:
    """The tree as an archive, without what differs from build to build."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(tree.rglob("*")):
            entry = archive.gettarinfo(path, str(path.relative_to(tree)))
            entry.mtime, entry.uname, entry.gname = EPOCH, "", ""
            entry.uid = entry.gid = USER if entry.name.startswith("var/lib/stackd") else 0
            entry.mode = 0o755 if path.is_dir() or entry.mode & 0o100 else 0o644
            with path.open("rb") if entry.isreg() else io.BytesIO() as content:
                archive.addfile(entry, content)
    return packed.getvalue()


def archive(layers: list[bytes], version: str, target: Path) -> str:
    """Write the OCI archive; returns the image's digest."""
    blobs: dict[str, bytes] = {}

    def blob(kind: str, content: bytes) -> dict[str, Any]:
        blobs[name := hashlib.sha256(content).hexdigest()] = content
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{name}", "size": len(content)}

    created = datetime.fromtimestamp(EPOCH, UTC).isoformat()
    config = {
        "created": created, "architecture": ARCHITECTURE, "os": "linux",
        "config": {
            "User": f"{USER}:{USER}", "Entrypoint": [f"/{PROGRAM}"], "Cmd": ["serve"], "WorkingDir": "/var/lib/stackd",
            "Env": ["PATH=/usr/bin", "HOME=/var/lib/stackd", *MALLOC], "ExposedPorts": {"8081/tcp": {}},
            "Labels": {"org.opencontainers.image.version": version, "org.opencontainers.image.licenses": "Apache-2.0"},
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(one).hexdigest()}" for one in layers]},
    }  # fmt: skip
    manifest = {
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob("config.v1+json", json.dumps(config).encode()),
        "layers": [blob("layer.v1.tar+gzip", gzip.compress(one, 6, mtime=0)) for one in layers],
    }  # fmt: skip
    image = blob("manifest.v1+json", json.dumps(manifest).encode())
    tag = version.replace("+", "-")  # no tag has a plus, which the version of a commit without a tag has
    named = {"io.containerd.image.name": f"localhost/stackd:{tag}", "org.opencontainers.image.ref.name": tag}
    index = {"schemaVersion": 2, "manifests": [image | {"annotations": named}]}
    files = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": json.dumps(index).encode()}
    with tarfile.open(target, "w") as packed:
        for name, content in (files | {f"blobs/sha256/{name}": content for name, content in blobs.items()}).items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime = len(content), EPOCH
            packed.addfile(entry, io.BytesIO(content))
    return str(image["digest"])


def contents(site: Path, copied: list[Path], version: str, digest: str) -> dict[str, Any]:
    """The bill of materials: what is installed, and the distribution's packages that the copied files are of."""
    found = bill("", version, datetime.fromtimestamp(EPOCH, UTC))
    found["metadata"]["component"]["hashes"] = [{"alg": "SHA-256", "content": digest.removeprefix("sha256:")}]
    parts = [
        component(one.name.lower(), one.version) for one in distributions(path=[str(site)]) if one.name != "stackd"
    ]
    owners: set[str] = set()
    for path in copied if shutil.which("dpkg-query") else ():
        names = {str(path), str(path.resolve()), str(path.resolve()).removeprefix("/usr"), f"/usr{path}"}
        told = ran("dpkg-query", "--search", *names, check=False)
        owners |= {line.partition(":")[0].partition(",")[0] for line in told.splitlines()}
    shown = (
        "dpkg-query",
        "--show",
        "--showformat",
        "${Package} ${Version}\n",
        *sorted(owner for owner in owners if " " not in owner),
    )
    for line in ran(*shown).splitlines() if owners else ():
        name, _, version = line.partition(" ")
        purl = f"pkg:deb/debian/{name}@{version.replace('+', '%2B')}?arch={ARCHITECTURE}"
        parts.append({"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl})
    return found | {"components": sorted(parts, key=lambda part: str(part["purl"]))}


def main() -> None:
    """Build it, and print its digest."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--base", type=Path)
    parser.add_argument("--tree", action="store_true")
    asked = parser.parse_args()
    version = asked.wheel.name.split("-")[1]
    with tempfile.TemporaryDirectory() as scratch:
        own, base = (asked.folder, asked.folder) if asked.tree else (Path(scratch) / "own", Path(scratch) / "base")
        install(asked.wheel, own)
        compile_all(own, SITE)
        copied = [] if asked.base else add_python(own / SITE, base)
        if not asked.base:
            compile_all(base, sysconfig.get_path("stdlib")[1:])
        if asked.tree:
            return
        first = asked.base.read_bytes() if asked.base else layer(base)
        target = asked.folder / f"stackd_{version}_{ARCHITECTURE}.oci.tar"
        digest = archive([first, layer(own)], version, target)
        listed = contents(own / SITE, copied, version, digest)
    target.with_suffix("").with_suffix(".oci.cdx.json").write_text(json.dumps(listed, indent=2) + "\n")
    sys.stdout.write(
        f"built {target} ({target.stat().st_size >> 20} MiB) with Python {platform.python_version()}: {digest}\n"
    )


if __name__ == "__main__":
    main()
