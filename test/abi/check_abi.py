"""Checks that the C ABI only grows: check_abi.py FROZEN_HEADER HEADER LIBRARY NM

Every declaration, struct field and enumerator of the frozen header must stand in today's header unchanged, and the
library must export exactly the functions that today's header declares.
"""

import re
import subprocess
import sys
from pathlib import Path


def strip(text):
    text = re.sub(r"/\*.*?\*/", " ", text, flags=re.S)
    text = re.sub(r"\\\n", " ", text)
    return re.sub(r"^\s*#.*$", " ", text, flags=re.M)


def functions(text):
    found = re.findall(r"SF_API\s+([^;]*?\b(sf[A-Z]\w*)\s*\([^;]*\))\s*;", strip(text), flags=re.S)
    return {name: " ".join(declaration.split()) for declaration, name in found}


def structs(text):
    found = re.findall(r"typedef struct (\w+) \{(.*?)\}", strip(text), flags=re.S)
    return {name: [" ".join(f.split()) for f in body.split(";") if f.strip()] for name, body in found}


def enumerators(text):
    return dict(re.findall(r"\b(SF_[A-Z0-9_]+)\s*=\s*(\d+)", strip(text)))


def main():
    frozen, header, library, nm = sys.argv[1:]
    old, new = Path(frozen).read_text(), Path(header).read_text()
    errors = []
    for name, declaration in functions(old).items():
        if functions(new).get(name) != declaration:
            errors.append(f"{name}: expected '{declaration}', got '{functions(new).get(name)}'")
    for name, fields in structs(old).items():
        if structs(new).get(name, [])[: len(fields)] != fields:
            errors.append(f"struct {name}: expected to begin with {fields}, got {structs(new).get(name)}")
    for name, value in enumerators(old).items():
        if enumerators(new).get(name) != value:
            errors.append(f"{name}: expected {value}, got {enumerators(new).get(name)}")
    output = subprocess.run([nm, "-D", "--defined-only", library], check=True, capture_output=True, text=True).stdout
    exported = {line.split()[-1].split("@")[0] for line in output.splitlines() if line.strip()}
    declared = set(functions(new))
    if exported != declared:
        errors.append(
            f"exported but not declared: {sorted(exported - declared)}; declared but not exported: {sorted(declared - exported)}"
        )
    print("\n".join(errors) or f"{len(declared)} functions, {len(structs(new))} structs: as they were")
    return bool(errors)


if __name__ == "__main__":
    sys.exit(main())
