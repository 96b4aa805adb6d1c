"""Build the source archive, and the wheel from it: ``dists.py SOURCE FOLDER``, with the build backend installed.

The archive's names are sorted, and its times and owners are no build machine's, so that the same commit gives the same bytes.
"""

from __future__ import annotations

import gzip
import os
import sys
import tarfile
import tempfile
from pathlib import Path

from setuptools import build_meta


def main(source: Path, folder: Path) -> None:
    """Write both into the folder."""
    folder = folder.absolute()
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(source)
        built = Path(scratch) / build_meta.build_sdist(scratch)
        with tarfile.open(built) as archive:
            archive.extractall(scratch, filter="data")
        normalize(built, folder / built.name)
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


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
