"""Adds up the JUnit reports of several test runners and prints one line such as pytest's; exits 1 unless all passed.

    summarize.py REPORTS SECONDS NAME=EXITCODE...

The reports of suite NAME are REPORTS/NAME.xml or REPORTS/NAME/*.xml. A runner that failed without a failed test in its
reports (it crashed, or ran nothing) counts as one failure, so that nothing can fail unseen.
"""

import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path


def count(files: list[Path]) -> tuple[int, list[str], int]:
    """(passed, names of the failed, skipped)."""
    passed, failed, skipped = 0, [], 0
    for file in files:
        for case in ElementTree.parse(file).iter("testcase"):
            if case.find("failure") is not None or case.find("error") is not None:
                failed.append(f"{case.get('classname', '')}.{case.get('name', '')}".strip("."))
            elif case.find("skipped") is not None or case.get("status") == "notrun":
                skipped += 1
            else:
                passed += 1
    return passed, failed, skipped


def main() -> int:
    reports, seconds = Path(sys.argv[1]), sys.argv[2]
    total = [0, 0, 0]
    for suite in sys.argv[3:]:
        name, code = suite.split("=")
        passed, failed, skipped = count([*reports.glob(f"{name}.xml"), *reports.glob(f"{name}/*.xml")])
        if not failed and (code != "0" or passed == 0):
            failed = [f"the runner ended with exit code {code} after {passed} tests"]
        for each in failed:
            print(f"FAILED {name}: {each}")
        print(f"{name}: {passed} passed, {len(failed)} failed, {skipped} skipped")
        total = [total[0] + passed, total[1] + len(failed), total[2] + skipped]
    parts = [f"{total[1]} failed"] if total[1] else []
    parts += [f"{total[0]} passed"]
    parts += [f"{total[2]} skipped"] if total[2] else []
    print(f"=== {', '.join(parts)} in {seconds}s ===")
    return 1 if total[1] else 0


sys.exit(main())
