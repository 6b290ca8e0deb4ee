"""The documentation's commands and Python run as they stand.

Every fenced block marked `sh` or `python` in README.md, CONTRIBUTING.md and docs/*.md is run, a page's blocks in order and
in one folder. Blocks that only show something are marked otherwise (`text`, `console`, `mlir`).
"""

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", "CONTRIBUTING.md", *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs").glob("*.md"))]

# Commands that set up, build or test the whole project: the test checks that the script is there, not that it runs.
WHOLE = re.compile(r"(tools/\w+/\w+|\.ci/run|pip wheel|pip install|cmake |ninja |ctest |git |build/venv)")


def blocks(page: str) -> list[tuple[str, str]]:
    return re.findall(r"^```(sh|python)\n(.*?)^```$", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES)
def test_blocks_run(page, tmp_path):
    found = blocks(page)
    if not found:
        pytest.skip("nothing to run on this page")
    for name in ("examples", "test", "include"):
        (tmp_path / name).symlink_to(ROOT / name)
    scripts = sysconfig.get_path("scripts")
    environment = os.environ | {"PATH": f"{scripts}:{ROOT / 'build' / 'bin'}:{os.environ['PATH']}"}
    for language, text in found:
        if language == "python":
            command = [sys.executable, "-c", text]
        else:
            kept = []
            for line in text.splitlines():
                whole = WHOLE.match(line.strip())
                if not whole:
                    kept.append(line)
                elif "/" in whole[1]:
                    assert os.access(ROOT / whole[1].strip(), os.X_OK), f"{page}: {whole[1]}"
            command = ["bash", "-euo", "pipefail", "-c", "\n".join(kept)]
        result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert result.returncode == 0, f"{page}:\n{text}\n{result.stdout}{result.stderr}"


def prose(path: Path) -> str:
    return re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)


def anchors(path: Path) -> set[str]:
    """The names that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.*)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]+))?[^)]*\)", prose(ROOT / page)):
        if not re.match(r"https?:|mailto:", target):
            path = (ROOT / page).parent / target if target else ROOT / page
            assert path.exists(), f"{page}: {target}"
            assert not anchor or anchor in anchors(path), f"{page}: {target}#{anchor}"
