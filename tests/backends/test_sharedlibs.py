"""What a library needs, and what of it is not there."""

import _ctypes
import shutil
import subprocess

import pytest

from ncdeploy.backends.sharedlibs import missing, needed


def test_a_library_of_pythons_own():
    assert "libc.so.6" in needed(_ctypes.__file__)
    assert missing(_ctypes.__file__) == []


def test_all_that_are_missing_are_named(tmp_path):
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("NOT TESTED: no C compiler")
    (tmp_path / "empty.c").write_text("int zero(void) { return 0; }\n")

    def build(name, *flags):
        subprocess.run([compiler, "-shared", "-o", str(tmp_path / name), str(tmp_path / "empty.c"), *flags], check=True)

    for name in ("libgone.so.7", "liblost.so.9"):
        build(name, f"-Wl,-soname,{name}")
    build("whole.so", "-Wl,--no-as-needed", str(tmp_path / "libgone.so.7"), str(tmp_path / "liblost.so.9"))
    assert needed(tmp_path / "whole.so")[:2] == ["libgone.so.7", "liblost.so.9"]
    assert missing(tmp_path / "whole.so") == ["libgone.so.7", "liblost.so.9"]  # the loader itself names the first only
    content = (tmp_path / "whole.so").read_bytes()
    for length in (0, 10, 64, 200):
        (tmp_path / "part.so").write_bytes(content[:length])
        assert needed(tmp_path / "part.so") == []
    (tmp_path / "text").write_text("no library")
    assert needed(tmp_path / "text") == []
