"""What all tokenizers have in common: one interface, each file read once, no fairseq."""

import ctypes
import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from fairseq.data import Dictionary as FairseqDictionary
from foreign import save_by_transformers, write_tokenizer
from transformers import AutoTokenizer

from fairseq_pmlm.conversion.importing import import_checkpoint
from fairseq_pmlm.tasks.encoders import ENCODERS
from fairseq_pmlm.tokenizers import files
from fairseq_pmlm.tokenizers.base import Tokenizer
from fairseq_pmlm.tokenizers.byte_bpe import ByteBPE
from fairseq_pmlm.tokenizers.dictionary import load_vocabulary
from fairseq_pmlm.tokenizers.symbols import all_symbols, write_dictionary
from fairseq_pmlm.utils.errors import PMLMError

ROOT = Path(__file__).parents[1]
TEXT = "The cats sat, singing </s> 안녕 ☃"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A data directory for each kind of tokenizer, by the name of its file."""
    found = {}
    for kind, name in (("bert", "vocab.txt"), ("roberta", "tokenizer.json"), ("xlm-roberta", "sentencepiece.model")):
        folder = found[name] = tmp_path_factory.mktemp(kind)
        write_tokenizer(kind, folder)
        if kind == "roberta":
            ByteBPE.load(str(folder / "vocab.json")).save(str(folder))
        elif kind == "xlm-roberta":
            os.rename(folder / "sentencepiece.bpe.model", folder / name)
        write_dictionary(str(folder / "dict.txt"), files.load(str(folder / name)).symbols)
    (found["vocab.txt"] / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    return found


@pytest.fixture(params=files.KINDS)
def folder(request, folders):
    return folders[request.param]


def test_saved_and_loaded_it_is_the_same(folder, tmp_path):
    path = files.find(str(folder))
    tokenizer = files.load(path)
    again = type(tokenizer).load(tokenizer.save(str(tmp_path)))
    assert os.path.basename(path) == tokenizer.file_name
    assert Path(path).read_bytes() == (tmp_path / tokenizer.file_name).read_bytes() == tokenizer.content
    assert again.fingerprint() == tokenizer.fingerprint() == files.fingerprint(path)
    assert again.encode(TEXT) == tokenizer.encode(TEXT)
    assert again.symbols == tokenizer.symbols == list(tokenizer.pieces)


def test_fingerprints_are_those_that_checkpoints_store(folders):
    for name, folder in folders.items():
        content = (folder / name).read_bytes()
        if name == "vocab.txt":
            assert files.fingerprint(str(folder / name)) == hashlib.sha256(content + b"[false, null, true]").hexdigest()
            windows = folder / "windows.txt"
            windows.write_bytes(content.replace(b"\n", b"\r\n"))
            assert files.fingerprint(str(windows)) == files.fingerprint(str(folder / name))
        else:
            assert files.fingerprint(str(folder / name)) == hashlib.sha256(content).hexdigest()


def test_a_vocabulary_is_a_dictionary_and_its_tokenizer(folder, folders, tmp_path):
    dictionary, tokenizer = load_vocabulary(str(folder))
    assert dictionary == str(folder / "dict.txt")
    assert FairseqDictionary.load(dictionary).symbols == all_symbols(tokenizer.symbols)
    shutil.copy(files.find(str(folder)), tmp_path)
    with pytest.raises(PMLMError, match=r"it has no dict\.txt"):
        load_vocabulary(str(tmp_path))
    (tmp_path / "dict.txt").write_text("a 1\n<mask> 1\n<pseudo> 1\n")
    with pytest.raises(PMLMError, match=rf"dict\.txt was not made from {tokenizer.file_name} next to it"):
        load_vocabulary(str(tmp_path))


def test_every_kind_is_registered_with_fairseq():
    assert {kind.name: kind for kind in files.KINDS.values()} == {name: kind for name, (kind, _) in ENCODERS.items()}
    assert all(issubclass(kind, Tokenizer) for kind in files.KINDS.values())


class Opens:
    """How often each file of a folder is opened while the block runs, by Python or by any library."""

    OPEN, CLOSE = 0x20, 0x18

    def __init__(self, folder):
        self.folder, self.counts = folder, Counter()

    def __enter__(self):
        libc = ctypes.CDLL(None, use_errno=True)
        self.file = libc.inotify_init1(os.O_NONBLOCK)
        assert self.file >= 0
        # of closing, too: events that are alike and follow each other are reported as one
        assert libc.inotify_add_watch(self.file, os.fsencode(self.folder), self.OPEN | self.CLOSE) >= 0
        return self.counts

    def __exit__(self, *_):
        events = os.read(self.file, 1 << 20)
        os.close(self.file)
        while events:
            _, mask, _, size = struct.unpack_from("iIII", events)
            name = events[16 : 16 + size].rstrip(b"\0").decode()
            self.counts[name] += bool(mask & self.OPEN and name)
            events = events[16 + size :]


linux = pytest.mark.skipif(sys.platform != "linux", reason="counts with inotify")


@linux
def test_opens_are_counted(tmp_path):
    (tmp_path / "a").write_text("x")
    with Opens(tmp_path) as counts:
        for _ in range(3):
            (tmp_path / "a").read_text()
    assert counts["a"] == 3


@linux
def test_loading_opens_each_file_once(folder):
    path = files.find(str(folder))
    for read in (files.load, files.fingerprint, lambda path: load_vocabulary(os.path.dirname(path))):
        with Opens(folder) as counts:
            read(path)
        assert counts.pop(os.path.basename(path)) == 1
        assert set(counts.values()) <= {0, 1}, counts


@linux
@pytest.mark.parametrize(
    ("kind", "saved", "expected"),
    [
        ("roberta", False, ["vocab.json", "merges.txt"]),
        ("roberta", True, ["tokenizer.json"]),
        ("bert", False, ["vocab.txt"]),
        ("bert", True, ["tokenizer.json"]),
        ("bert", "both", ["vocab.txt", "tokenizer.json", "tokenizer_config.json"]),
        ("xlm-roberta", False, ["sentencepiece.bpe.model"]),
    ],
)
def test_importing_opens_each_file_once(kind, saved, expected, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    save_by_transformers(kind, source)
    if saved:
        AutoTokenizer.from_pretrained(source).save_pretrained(source)
        if saved != "both":
            for name in ("vocab.txt", "vocab.json", "merges.txt"):
                (source / name).unlink(missing_ok=True)
    with Opens(source) as counts:
        import_checkpoint(str(source), str(tmp_path / "out"))
    counts.pop("model.safetensors")
    assert +counts == Counter([*expected, "config.json"])
    assert files.load(files.find(str(tmp_path / "out"))).encode("the cats")


WITHOUT_FAIRSEQ = """
import importlib, json, os, pkgutil, sys, types

sys.modules["fairseq"] = None  # an import of it fails
root = types.ModuleType("fairseq_pmlm")
root.__path__ = [sys.argv[1]]
sys.modules["fairseq_pmlm"] = root
tokenizers = importlib.import_module("fairseq_pmlm.tokenizers")
for module in pkgutil.iter_modules(tokenizers.__path__):
    importlib.import_module(f"fairseq_pmlm.tokenizers.{module.name}")
from fairseq_pmlm.tokenizers import dictionary, files

found = []
for folder in sys.argv[3:]:
    tokenizer = files.load(files.find(folder))
    types = dictionary.load_dictionary(folder)
    encoded = tokenizer.encode(sys.argv[2])
    symbols, offsets = tokenizer.encode_with_offsets(sys.argv[2])
    assert symbols == encoded.split()
    line = types.encode_line(encoded)
    decoded = tokenizer.decode(" ".join(types[i] for i in line.tolist() if i != types.eos()))
    found.append([line.tolist(), decoded, offsets.tolist(), tokenizer.fingerprint()])
assert not any(name.split(".")[0] in ("fairseq", "omegaconf", "hydra") and sys.modules[name] for name in sys.modules)
print(json.dumps(found))
"""


def test_they_work_without_fairseq(folders):
    command = [sys.executable, "-c", WITHOUT_FAIRSEQ, str(ROOT / "fairseq_pmlm"), TEXT, *map(str, folders.values())]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    expected = []
    for folder in folders.values():
        path, dictionary = files.find(str(folder)), FairseqDictionary.load(str(folder / "dict.txt"))
        tokenizer = files.load(path)
        line = dictionary.encode_line(tokenizer.encode(TEXT), add_if_not_exist=False)
        offsets = tokenizer.encode_with_offsets(TEXT)[1].tolist()
        expected.append([line.tolist(), tokenizer.decode(dictionary.string(line)), offsets, files.fingerprint(path)])
    assert json.loads(done.stdout) == expected
