"""Files that several processes write: whole, of ordinary mode, and nothing lost or left over."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from sparseflow.files import cache_folder, replacing


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"SPARSEFLOW_CACHE_DIR": "/kept", "XDG_CACHE_HOME": "/xdg", "HOME": "/home/me"}, "/kept"),
        ({"SPARSEFLOW_CACHE_DIR": "", "XDG_CACHE_HOME": "/xdg", "HOME": "/home/me"}, None),
        ({"XDG_CACHE_HOME": "/xdg", "HOME": "/home/me"}, "/xdg/sparseflow"),
        ({"XDG_CACHE_HOME": "", "HOME": "/home/me"}, "/home/me/.cache/sparseflow"),
        ({"HOME": "/home/me"}, "/home/me/.cache/sparseflow"),
    ],
)
def test_the_cache_folder_is_the_librarys(monkeypatch, variables, expected):
    for name in ("SPARSEFLOW_CACHE_DIR", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache_folder() == (expected and Path(expected))


def test_without_a_home_there_is_no_cache_folder(monkeypatch):
    for name in ("SPARSEFLOW_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as for a user that the system does not know
    assert cache_folder() is None


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "table.json"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(path) as partial:
        partial.write_text("new")
        raise ZeroDivisionError
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["table.json"]


def test_the_mode_is_what_the_umask_says(tmp_path):
    before = os.umask(0o027)
    try:
        with replacing(tmp_path / "table.json") as partial:
            partial.write_text("new")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "table.json").stat().st_mode) == 0o640


def test_no_entry_of_another_process_is_lost(tmp_path):
    code = """
import json, sys
from pathlib import Path
from sparseflow.files import locked, replacing
path = Path(sys.argv[1])
for number in range(100):
    with locked(path), replacing(path) as partial:
        entries = json.loads(path.read_text()) if path.exists() else []
        partial.write_text(json.dumps([*entries, sys.argv[2]]))
"""
    path = tmp_path / "table.json"
    processes = [subprocess.Popen([sys.executable, "-c", code, path, name]) for name in "ab"]
    assert [process.wait() for process in processes] == [0, 0]
    assert sorted(json.loads(path.read_text())) == ["a"] * 100 + ["b"] * 100
    assert sorted(os.listdir(tmp_path)) == ["table.json", "table.json.lock"]
