"""Damages every file of a folder: truncates one, empties the next, flips a bit of the third, and so on."""

import sys
from pathlib import Path

for index, path in enumerate(sorted(p for p in Path(sys.argv[1]).rglob("*") if p.is_file())):
    data = bytearray(path.read_bytes())
    if index % 3 == 0:
        data = data[: len(data) // 2]
    elif index % 3 == 1:
        data = bytearray()
    else:
        data[len(data) // 2] ^= 1
    path.write_bytes(data)
