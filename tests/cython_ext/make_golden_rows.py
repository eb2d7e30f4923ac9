"""Writes golden_rows.json from the definition alone: pure Python and the xxhash package.

A difference between the file and the code is a defect of the code. Run this only with a new HASH_VERSION.
"""

import json
from pathlib import Path

import xxhash

MASK = 2**64 - 1


def mix64(z):
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def row(id_, feature, j, n):
    salt = mix64((xxhash.xxh64_intdigest(feature.encode()) + (j + 1) * 0x9E3779B97F4A7C15) & MASK)
    return ((mix64((id_ & MASK) ^ salt) >> 32) * n) >> 32


def main():
    ids = [0, 1, -1, 2, 41, 2**31, -(2**31), 2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63), -(2**63) + 1]
    features = ["", "C1", "user_id", "größe", "a feature name of more than thirty-two bytes"]
    sizes = [1, 2, 7, 1000, 1_000_003, 2**31 - 1]
    strings = ["", "a", "68fd1e64", "0123456789abcdef", "größe", "x" * 31, "x" * 32, "x" * 100]
    rows = [[i, f, j, n, row(i, f, j, n)] for i in ids for f in features for j in (0, 1, 5) for n in sizes]
    golden = {
        "hash_version": 1,
        "columns": ["id", "feature", "j", "num_embeddings", "row"],
        "string_ids": {s: (xxhash.xxh64_intdigest(s.encode()) ^ 2**63) - 2**63 for s in strings},
        "rows": [],
    }
    lines = ",\n".join(json.dumps(r, ensure_ascii=False) for r in rows)
    text = json.dumps(golden, indent=1, ensure_ascii=False).replace("[]", f"[\n{lines}\n]")
    Path(__file__).with_name("golden_rows.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
