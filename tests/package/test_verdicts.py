"""The Debian package is reproducible, and lintian finds nothing wrong. Both checks run beside the tests before."""

from __future__ import annotations

import hashlib

import pytest

from tests.package.conftest import Built

pytestmark = pytest.mark.systemd


def test_lintian_has_nothing_to_say(built: Built) -> None:
    assert built.lintian is not None
    done = built.lintian.result()
    assert (done.code, done.out, done.err) == (0, "", "")


def test_two_builds_in_two_folders_are_the_same_to_the_last_byte(built: Built) -> None:
    assert built.again is not None
    done = built.again.result()
    assert done.code == 0, done.out + done.err
    (other,) = built.elsewhere.glob("stackd_*.deb")
    assert other.name == built.deb.name
    assert hashlib.sha256(other.read_bytes()).digest() == hashlib.sha256(built.deb.read_bytes()).digest()
