#!/usr/bin/env python3
"""Make the small CIFAR-100 sample that `datasets/cifar100_sample/` carries.

Usage: scripts/make_cifar100_sample.py CIFAR100_DIR [OUT_DIR]

CIFAR100_DIR holds train.bin and test.bin of CIFAR-100's binary version, plain or as .zst. From 20 classes, one
of each superclass, the first 100 training and 25 test images are taken in their original order; fine labels are
renumbered 0..19 in the order of CLASSES. Reading and writing .zst takes the `zstd` program. Prints what
`datasets/cifar100_sample.toml` must state.
"""

import hashlib
import pathlib
import subprocess
import sys

# Fine label in CIFAR-100 and its name, in the sample's label order.
CLASSES = [
    (4, "beaver"), (1, "aquarium_fish"), (70, "rose"), (9, "bottle"), (0, "apple"),
    (22, "clock"), (5, "bed"), (14, "butterfly"), (43, "lion"), (17, "castle"),
    (23, "cloud"), (31, "elephant"), (34, "fox"), (26, "crab"), (2, "baby"),
    (27, "crocodile"), (36, "hamster"), (47, "maple_tree"), (8, "bicycle"), (89, "tractor"),
]
PER_CLASS = {"train": 100, "test": 25}
RECORD = 2 + 3 * 32 * 32


def read(folder: pathlib.Path, split: str) -> bytes:
    plain = folder / f"{split}.bin"
    if plain.exists():
        return plain.read_bytes()
    return subprocess.run(["zstd", "-dcq", f"{plain}.zst"], check=True, capture_output=True).stdout


def sample(content: bytes, per_class: int) -> bytes:
    label_of = {fine: label for label, (fine, _) in enumerate(CLASSES)}
    left = dict.fromkeys(label_of, per_class)
    kept = []
    for start in range(0, len(content), RECORD):
        record = content[start : start + RECORD]
        fine = record[1]
        if left.get(fine, 0) > 0:
            left[fine] -= 1
            kept.append(bytes([record[0], label_of[fine]]) + record[2:])
    if any(left.values()):
        sys.exit("the input does not hold enough images of every class")
    return b"".join(kept)


def main() -> None:
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    source = pathlib.Path(sys.argv[1])
    default = pathlib.Path(__file__).resolve().parent.parent / "datasets" / "cifar100_sample"
    out = pathlib.Path(sys.argv[2]) if len(sys.argv) == 3 else default
    out.mkdir(parents=True, exist_ok=True)
    for split, per_class in PER_CLASS.items():
        content = sample(read(source, split), per_class)
        target = out / f"{split}.bin.zst"
        subprocess.run(["zstd", "-19", "-fqo", target], input=content, check=True)
        records = len(content) // RECORD
        print(f"{split}: records = {records}, sha256 = {hashlib.sha256(content).hexdigest()}")


if __name__ == "__main__":
    main()
