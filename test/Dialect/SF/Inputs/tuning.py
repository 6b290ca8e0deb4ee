"""Writes a tuning database: tuning.py FILE VERSION [TOKENS CONFIG MICROSECONDS]..., for 2:4 f16 weights 4096x4096 on sm_80."""

import sqlite3
import sys

path, version, *entries = sys.argv[1:]
with sqlite3.connect(path) as connection:
    connection.execute(
        "CREATE TABLE choices (chip TEXT, dtype TEXT, weights TEXT, features INTEGER, inner INTEGER, epilogue TEXT, "
        "tokens INTEGER, compiler TEXT, config TEXT, microseconds REAL, "
        "PRIMARY KEY (chip, dtype, weights, features, inner, epilogue, tokens, compiler)) WITHOUT ROWID"
    )
    connection.execute(f"PRAGMA application_id = {0x53465401}")
    for tokens, config, time in zip(entries[::3], entries[1::3], entries[2::3], strict=True):
        key = ("sm_80", "f16", "sp24", 4096, 4096, "plain", int(tokens), version)
        connection.execute(f"INSERT INTO choices VALUES ({','.join('?' * 10)})", (*key, config, float(time)))
