"""Build the source archive, the wheel from it, and the plugin for CTFd as a ZIP file: ``dists.py SOURCE FOLDER``, with the
build backend installed.

The archive's names are sorted, and its times and owners are no build machine's, so that the same commit gives the same bytes.
"""

from __future__ import annotations

import gzip
import os
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path

from setuptools import build_meta


def main(source: Path, folder: Path) -> None:
    """Write them into the folder."""
    folder = folder.absolute()
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(source)
        built = Path(scratch) / build_meta.build_sdist(scratch)
        with tarfile.open(built) as archive:
            archive.extractall(scratch, filter="data")
        normalize(built, folder / built.name)
        pack(Path("integrations/ctfd/stackd_instances"), folder / built.name.replace(".tar.gz", "-ctfd-plugin.zip"))
        os.chdir(Path(scratch) / built.name.removesuffix(".tar.gz"))
        build_meta.build_wheel(str(folder))


def normalize(built: Path, target: Path) -> None:
    """Copy an archive, without what differs from build to build."""
    epoch = int(os.environ["SOURCE_DATE_EPOCH"])
    with (
        tarfile.open(built) as archive,
        target.open("wb") as raw,
        gzip.GzipFile("", "wb", mtime=epoch, fileobj=raw) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as fresh,
    ):
        for member in sorted(archive.getmembers(), key=lambda member: member.name):
            member.mtime, member.pax_headers = epoch, {}
            member.uid = member.gid = 0
            member.uname = member.gname = "root"
            member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            fresh.addfile(member, archive.extractfile(member) if member.isfile() else None)


def pack(plugin: Path, target: Path) -> None:
    """Write a folder into a ZIP file, to be unpacked in CTFd/plugins."""
    when = time.gmtime(int(os.environ["SOURCE_DATE_EPOCH"]))[:6]
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(plugin.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                entry = zipfile.ZipInfo(str(path.relative_to(plugin.parent)), when)
                entry.external_attr, entry.compress_type = 0o100644 << 16, zipfile.ZIP_DEFLATED
                archive.writestr(entry, path.read_bytes())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
