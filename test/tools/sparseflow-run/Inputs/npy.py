"""Makes and compares .npy files with the standard library alone.

npy.py make FILE SHAPE DESCR SEED     small random values, e.g. 37x64
npy.py compare A B TOLERANCE          prints the shape and the largest difference; fails beyond the tolerance
"""

import random
import struct
import sys
from pathlib import Path

FORMATS = {"<f2": "e", "<f4": "f", "<u2": "H", "|i1": "b"}


def write(path, descr, shape, values):
    extents = "".join(f"{n}," for n in shape)
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': ({extents}), }}"
    header += " " * ((63 - (10 + len(header))) % 64) + "\n"
    with open(path, "wb") as file:
        file.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode())
        file.write(struct.pack(f"<{len(values)}{FORMATS[descr]}", *values))


def read(path):
    data = Path(path).read_bytes()
    length = struct.unpack("<H", data[8:10])[0]
    header = eval(data[10 : 10 + length])
    body = data[10 + length :]
    kind = FORMATS[header["descr"]]
    return header["shape"], struct.unpack(f"<{len(body) // struct.calcsize(kind)}{kind}", body)


def main():
    if sys.argv[1] == "make":
        _, _, path, shape, descr, seed = sys.argv
        shape = [int(n) for n in shape.split("x")]
        count = 1
        for n in shape:
            count *= n
        generator = random.Random(int(seed))
        floating = FORMATS[descr] in "ef"
        write(
            path, descr, shape, [generator.gauss(0, 1) if floating else generator.randrange(100) for _ in range(count)]
        )
        return 0
    (shape, a), (other, b) = read(sys.argv[2]), read(sys.argv[3])
    worst = max((abs(x - y) for x, y in zip(a, b, strict=True)), default=0)
    print("shape", "x".join(str(n) for n in shape), "largest", max(map(abs, a), default=0), "difference", worst)
    return shape != other or not worst <= float(sys.argv[4])


if __name__ == "__main__":
    sys.exit(main())
