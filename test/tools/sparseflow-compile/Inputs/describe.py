"""Prints what an .sf file holds, read with nothing but the standard library."""

import json
import struct
import sys

with open(sys.argv[1], "rb") as file:
    data = file.read()
(size,) = struct.unpack("<Q", data[:8])
header = json.loads(data[8 : 8 + size])
manifest = json.loads(header.pop("__metadata__")["sparseflow.manifest"])
for name in sorted(header):
    print("tensor", name, header[name]["dtype"], header[name]["shape"])
for function in manifest["functions"]:
    for program in function["programs"]:
        print(f"program {function['name']} {program['target']}:", ", ".join(step["op"] for step in program["steps"]))
        for kernel in program["kernels"]:
            sparse, assembled = ("yes" if kernel[key] else "no" for key in ("mma_sp", "ptxas"))
            print(f"kernel {kernel['name']}: spills {kernel['spill_bytes']}, mma_sp {sparse}, ptxas {assembled}")
