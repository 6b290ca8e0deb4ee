"""Runs the ```mlir blocks of Markdown files through sparseflow-opt: run_examples.py OPT FILE..."""

import concurrent.futures
import re
import subprocess
import sys
from pathlib import Path

BLOCK = re.compile(r"^ *```mlir\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


def run(example):
    place, text = example
    result = subprocess.run([opt, "--verify-roundtrip", "-o", "/dev/null"], input=text, capture_output=True, text=True)
    return None if result.returncode == 0 else f"{place}: {result.stderr}"


opt, *files = sys.argv[1:]
examples = []
for name in files:
    page = Path(name).read_text()
    for match in BLOCK.finditer(page):
        line = page.count("\n", 0, match.start()) + 1
        examples.append((f"{name}:{line}", match[1]))
with concurrent.futures.ThreadPoolExecutor() as pool:
    failures = [failure for failure in pool.map(run, examples) if failure]
print(*failures, sep="\n", file=sys.stderr)
print(f"examples: {len(examples)} run, {len(failures)} failed")
