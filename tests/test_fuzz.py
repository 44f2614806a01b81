"""A short run of the fuzzer over every reader, and what longer runs have found."""

import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from fuzz_readers import judge, run, warm
from fuzz_seeds import READERS

from fairseq_pmlm.utils.errors import PMLMError


@pytest.mark.parametrize("name", list(READERS))
def test_damaged_files_are_read_or_refused_in_one_clear_line(name):
    found = run(warm(name), inputs=25, seed=11, limits=(20, 1500 << 20))
    assert found.crashes == []
    assert found.inputs == 25
    assert found.accepted >= 1  # the valid one
    assert found.refused >= (name != "training log")  # of which what is broken is left out, and counted
    assert found.memory < 400e6


LONG = "9" * 5000  # quoted in full, it would make a message that nobody reads
DEEP = b'{"a": ' + b"[" * 3000 + b"]" * 3000 + b', "b": "x", "score": 1}'
# reader, file, content: what once ended in a traceback, in a message of pages, or in nothing
CASES = [
    ("pairs.jsonl", "a.jsonl", json.dumps({"tgt": "x", LONG: 1}).encode()),
    ("squad.json", "a.json", json.dumps({"version": LONG, "data": []}).encode()),
    ("squad.json", "a.json", json.dumps({"version": "1.1", LONG: []}).encode()),
    ("glue.tsv", "a.tsv", f"sentence1\tsentence2\tlabel\na\tb\t{LONG}".encode()),
    ("glue.jsonl", "a.jsonl", DEEP),
    ("dict.txt", "dict.txt", b"a 1\nb x\n"),
    ("dict.txt", "dict.txt", b"a 1\na 2\n"),
    ("dict.txt", "dict.txt", b"\xff\xfe 1\n"),
    ("import, config.json", "config.json", json.dumps({"model_type": {"a": LONG}}).encode()),
    ("import, config.json", "config.json", b'{"hidden_size": ' + LONG.encode() + b"}"),
    ("import, header of .safetensors", "model.safetensors", (2**62).to_bytes(8, "little") + b"{}"),
    ("import, header of .safetensors", "model.safetensors", b"\x02" + bytes(7) + b"{}"),
    ("import, .bin", "pytorch_model.bin", b"PK\x03\x04" + bytes(40)),
    ("checkpoint", "model.pt", b"PK\x05\x06" + b"\xff" * 18),
    ("data-bin, classification", "input0/train.idx", b"no index at all, but long enough to be one" * 3),
    ("data-bin, SQuAD", "squad.json", b'{"version": 2, "limits": {}, "parts": {}}'),
    ("data-bin, SQuAD", "squad.json", b'{"version": "2.0", "limits": {"doc_stride": "x"}, "parts": {}}'),
    ("data-bin, SQuAD", "valid.windows.npy", b"\x93NUMPY\x01\x00\x0a\x00" + b"(" * 10),
    ("generate.txt", "generate.txt", b""),
]


@pytest.mark.parametrize(("name", "file", "content"), CASES, ids=lambda x: x if isinstance(x, str) else "")
def test_what_the_fuzzer_has_found(name, file, content, tmp_path):
    reader = READERS[name]()
    reader.write(str(tmp_path), file, content)
    verdict, said = judge(reader, str(tmp_path), file)
    assert verdict == "refused", said
    assert len(said) <= 1500


@pytest.mark.parametrize("column", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("value", [-2, 2**31, -(2**63), 2**63 - 1])
def test_windows_that_point_anywhere_are_refused(column, value, tmp_path):
    reader = READERS["data-bin, SQuAD"]()
    reader.write(str(tmp_path), "", b"")
    rows = np.load(tmp_path / "valid.windows.npy")
    rows[0, column] = value
    np.save(tmp_path / "valid.windows.npy", rows)
    with pytest.raises(PMLMError, match=r"valid\.windows\.npy does not belong to"):
        reader.read(str(tmp_path))


def test_the_fuzzer_sees_what_is_wrong():
    """It would be worth nothing if it did not."""
    reader = READERS["pairs.jsonl"]()

    def unclear(folder):
        raise PMLMError("something is wrong")

    def killed(folder):
        os.kill(os.getpid(), signal.SIGKILL)

    def endless(folder):
        while True:
            pass

    def hungry(folder):
        bytearray(1 << 32)

    wrong = {"does not name the file": unclear, "ended: signal 9": killed, "time limit": endless, "MemoryError": hungry}
    wrong |= {"ZeroDivisionError": lambda folder: 1 / 0}
    for said, read in wrong.items():
        reader.read = read
        found = run(reader, inputs=2, seed=1, limits=(0.5, 500 << 20))
        assert len(found.crashes) == 2, said
        assert said in found.crashes[1][1]
