#!/usr/bin/env python
"""Split one file of pairs into train, valid and test by a hash of the source: equal sources stay together.

    python scripts/demo/split_pairs.py --pairs pairs.jsonl --destdir corpus

writes corpus/pairs.train.jsonl, pairs.valid.jsonl and pairs.test.jsonl.
"""

import argparse
import hashlib
import json
import os

import fairseq_pmlm.tasks  # noqa: F401
from fairseq_pmlm.utils.errors import PMLMError
from fairseq_pmlm.utils.io import Counts, read_records, text_value, write_text


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--pairs", required=True, help="JSON lines with src and tgt")
    parser.add_argument("--destdir", required=True, help="directory for the three files")
    parser.add_argument("--valid-percent", type=int, default=4, help="share of the pairs for validation, in percent")
    parser.add_argument("--test-percent", type=int, default=12, help="share of the pairs for testing, in percent")
    args = parser.parse_args()
    if min(args.valid_percent, args.test_percent) < 0 or args.valid_percent + args.test_percent > 99:
        raise PMLMError(
            f"--valid-percent {args.valid_percent} and --test-percent {args.test_percent} leave nothing to train on"
        )
    splits = {"train": [], "valid": [], "test": []}
    counts = Counts()
    for number, values in read_records(args.pairs, ("src", "tgt"), counts):
        source, target = (
            text_value(value, f"{args.pairs}, line {number}, key '{key}'", counts)
            for key, value in zip(("src", "tgt"), values, strict=True)
        )
        percent = int(hashlib.sha256(source.encode()).hexdigest(), 16) % 100
        held_out = "valid" if percent < args.valid_percent else "test"
        name = held_out if percent < args.valid_percent + args.test_percent else "train"
        splits[name].append(json.dumps({"src": source, "tgt": target}, ensure_ascii=False))
    empty = [name for name, pairs in splits.items() if not pairs]
    if empty:
        raise PMLMError(
            f"{args.pairs} holds too few pairs: none of {sum(map(len, splits.values()))} went to {empty[0]}"
        )
    os.makedirs(args.destdir, exist_ok=True)
    for name, pairs in splits.items():
        path = os.path.join(args.destdir, f"pairs.{name}.jsonl")
        write_text(path, "\n".join(pairs) + "\n")
        print(f"{path}: {len(pairs):,} pairs")


if __name__ == "__main__":
    main()
