"""Binarized text: an index that lies, files that are cut, tokens that no dictionary has."""

import struct

import numpy as np
import pytest
import torch
from fairseq.data import huffman, indexed_dataset
from fairseq.data.indexed_dataset import MMapIndexedDatasetBuilder
from reference import small_dictionary

from fairseq_pmlm.data import indexed
from fairseq_pmlm.tasks.pmlm import PMLMTask, PMLMTaskConfig
from fairseq_pmlm.tasks.pmlm_seq2seq import PMLMSeq2SeqConfig, PMLMSeq2SeqTask
from fairseq_pmlm.utils.errors import PMLMError

LINES = [[5, 6, 7, 2], [2], [8, 9, 2]]


def test_the_format_is_fairseqs():
    assert indexed_dataset.MMapIndexedDataset.Index._HDR_MAGIC == indexed.MAGIC
    assert indexed_dataset.IndexedDataset._HDR_MAGIC == indexed.OLD_MAGIC
    assert huffman.HuffmanMMapIndex._HDR_MAGIC[:8] == indexed.HUFFMAN_MAGIC
    assert indexed_dataset._code_to_dtype == indexed.TYPES
    for types in (1, 100, 65_499, 65_500, 65_536, 2**32 - 2, 2**32 - 1, 2**32, 2**40):
        assert indexed.best_fitting_int_dtype(types) is indexed_dataset.best_fitting_int_dtype(types)


def write(prefix, lines=LINES, dtype=np.uint16):
    builder = MMapIndexedDatasetBuilder(f"{prefix}.bin", dtype=dtype)
    for line in lines:
        builder.add_item(torch.tensor(line))
    builder.finalize(f"{prefix}.idx")
    return str(prefix)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64])
def test_sound_files_pass(dtype, tmp_path):
    indexed.check(write(tmp_path / "a", dtype=dtype), types=10)
    indexed.check(str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("lines", "bits"), [(LINES, np.log2(5)), ([[5, 5, 6, 2], [5, 2], [2]], 2 - 0.75 * np.log2(3)), ([[7, 2]], 0)]
)
def test_unigram_entropy(tmp_path, lines, bits):
    prefix = write(tmp_path / "a", lines, dtype=np.int32)
    assert indexed.unigram_entropy(prefix, small_dictionary()) == pytest.approx(bits)
    with pytest.raises(PMLMError, match=r"b\.bin does not exist"):
        indexed.unigram_entropy(str(tmp_path / "b"), small_dictionary())


def test_chunks_do_not_matter(tmp_path, monkeypatch):
    monkeypatch.setattr(indexed, "CHUNK", 2)
    prefix = write(tmp_path / "a", [*LINES] * 5)
    indexed.check(prefix, types=10)
    with pytest.raises(PMLMError, match="holds token 9, and the dictionary has 9 symbols"):
        indexed.check(prefix, types=9)


def damage(prefix, place, code, value):
    with open(f"{prefix}.idx", "r+b") as f:
        f.seek(place)
        f.write(struct.pack(code, value))


@pytest.mark.parametrize(
    ("place", "code", "value", "said"),
    [
        (0, "<9s", b"something", r"a\.idx is no index: it begins with b'something'"),
        (9, "<Q", 2, r"a\.idx is damaged, or of a newer format: version 2 instead of 1"),
        (17, "<B", 6, "code 6 stands for no type of whole numbers"),
        (17, "<B", 99, "code 99 stands for no type of whole numbers"),
        (17, "<B", 4, "item 2 has 1 tokens and begins at byte 8, where byte 16 is due"),
        (18, "<Q", 2**62, r"4,611,686,018,427,387,904 items take .* bytes, and it has 62"),
        (18, "<Q", 2, "2 items take 50 bytes, and it has 62"),
        (26, "<i", -1, "item 1 has -1 tokens"),
        (26, "<i", 2**31 - 1, "item 2 has 1 tokens and begins at byte 8, where byte 4294967294 is due"),
        (34, "<i", 4, r"a\.bin has 16 bytes, and .*a\.idx is of 18: one is cut or another's"),
        (38, "<q", 2, "item 1 has 4 tokens and begins at byte 2, where byte 0 is due"),
        (54, "<q", -(2**63), "item 3 has 3 tokens and begins at byte -9223372036854775808, .* with --workers 1"),
    ],
)
def test_an_index_that_lies_is_named(place, code, value, said, tmp_path):
    prefix = write(tmp_path / "a")
    damage(prefix, place, code, value)
    with pytest.raises(PMLMError, match=said):
        indexed.check(prefix)


def test_files_that_are_cut_are_named(tmp_path):
    prefix = write(tmp_path / "a")
    for kind in ("idx", "bin"):
        path = tmp_path / f"a.{kind}"
        whole = path.read_bytes()
        for end in range(len(whole)):
            path.write_bytes(whole[:end])
            with pytest.raises(PMLMError, match=rf"a\.{kind}"):
                indexed.check(prefix)
        path.write_bytes(whole)


@pytest.mark.parametrize("impl", ["lazy", "cached"])
def test_the_older_format_is_checked_as_well(impl, tmp_path):
    prefix = str(tmp_path / "a")
    builder = indexed_dataset.IndexedDatasetBuilder(f"{prefix}.bin")
    for line in LINES:
        builder.add_item(torch.tensor(line))
    builder.finalize(f"{prefix}.idx")
    indexed.check(prefix, types=10)
    assert len(indexed_dataset.make_dataset(prefix, impl)) == 3
    with pytest.raises(PMLMError, match=r"a\.bin holds token 9, and the dictionary has 9 symbols"):
        indexed.check(prefix, types=9)
    with pytest.raises(PMLMError, match=r"a\.bin: not every label is one token and </s>"):
        indexed.check(prefix, labels=small_dictionary())
    damage(prefix, 32, "<Q", 2**60)  # fairseq would ask for so much memory
    with pytest.raises(PMLMError, match="1,152,921,504,606,846,976 items take"):
        indexed.check(prefix)


@pytest.mark.parametrize(
    ("token", "dtype"), [(36, np.uint16), (65535, np.uint16), (-1, np.int32), (-(2**63), np.int64)]
)
def test_tokens_beyond_the_dictionary_are_named(token, dtype, tmp_path):
    """In pairs when they are loaded, in text for pre-training when they are read."""
    (tmp_path / "dict.txt").write_text("".join(f"w{i} 1\n" for i in range(30)) + "<mask> 1\n<pseudo> 1\n")
    lines = [[5, 6, 7, 2], [35, token, 2]]
    said = rf"holds token {token}, and the dictionary has 36 symbols"
    for side in ("src", "tgt"):
        write(tmp_path / f"train.src-tgt.{side}", lines, dtype)
    cfg = PMLMSeq2SeqConfig(data=str(tmp_path), source_lang="src", target_lang="tgt", seed=1, fp16=False, bf16=False)
    task = PMLMSeq2SeqTask(cfg, small_dictionary())
    with pytest.raises(PMLMError, match=rf"train\.src-tgt\.src\.bin {said}"):
        task.load_binarized(str(tmp_path / "train.src-tgt.src"))
    write(tmp_path / "train", lines, dtype)
    task = PMLMTask.setup_task(PMLMTaskConfig(data=str(tmp_path), tokens_per_sample=9, sample_break_mode="eos", seed=1))
    task.load_dataset("train")
    task.datasets["train"][0]
    with pytest.raises(PMLMError, match=rf"train\.bin, lines 2 to 2, {said}"):
        task.datasets["train"][1]


def test_the_last_symbol_of_a_dictionary_is_no_error(tmp_path):
    indexed.check(write(tmp_path / "a", [[35, 2]]), types=36)


def test_labels_are_one_token_and_their_end(tmp_path):
    dictionary = small_dictionary()
    indexed.check(write(tmp_path / "a", [[5, 2], [6, 2]]), labels=dictionary)
    for labels in ([[5, 6, 2], [2]], [[5, 6], [6, 2]], [[2, 2], [6, 2]], [[5], [2]]):
        with pytest.raises(PMLMError, match=r"a\.bin: not every label is one token and </s>"):
            indexed.check(write(tmp_path / "a", labels), labels=dictionary)
    with pytest.raises(PMLMError, match=r"a\.bin: label 2 is not in the dictionary of labels"):  # but <unk>
        indexed.check(write(tmp_path / "a", [[4, 2], [3, 2]]), labels=dictionary)
