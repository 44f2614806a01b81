"""What the prepare commands write is what fairseq's own commands would write of the same text, byte by byte."""

import json
import re
import shlex
from collections import Counter

import numpy as np
import pytest
import sentencepiece
import test_glue
import torch
from commands import call, command
from fairseq.binarizer import FileBinarizer, VocabularyDatasetBinarizer
from fairseq.data import Dictionary, indexed_dataset
from test_offsets import bpes  # noqa: F401
from test_squad import squad_file

from fairseq_pmlm.data.indexed import MMapWriter
from fairseq_pmlm.preparation import binarize, encoding
from fairseq_pmlm.tokenizers import files as tokenizer_files
from fairseq_pmlm.tokenizers.symbols import write_dictionary
from fairseq_pmlm.utils.errors import PMLMError

LINES = [
    "the cats sat",
    "xyz 😀 [SEP] </s> <unk>",
    "안녕하세요 세계 w",
    "a\u3000b\u00a0c",
    "<mask> madeupword0001 漢",
] * 8


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    """A sentencepiece model that does not know all of LINES, and its dictionary, with counts of several digits."""
    folder = tmp_path_factory.mktemp("vocabulary")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the cats sat on a mat , singing", "안녕하세요 세계"] * 9),
        model_prefix=str(folder / "sentencepiece"), vocab_size=40, minloglevel=2, hard_vocab_limit=False,
    )  # fmt: skip
    (folder / "sentencepiece.vocab").unlink()
    symbols = tokenizer_files.load(str(folder / "sentencepiece.model")).symbols
    counts = Counter({symbol: 17 * i for i, symbol in enumerate(symbols)})
    write_dictionary(str(folder / "dict.txt"), symbols, counts)
    return folder


def fairseq_preprocess(folder, shown):
    """Run a command that was *shown* to write into *folder* from encoded text; it writes into *folder*/theirs."""
    found = re.fullmatch(r"  cd (\S+) && fairseq-preprocess (.*) --destdir \. (--workers \d+)", shown)
    assert found
    assert found[1] == str(folder)
    options = shlex.split(found[2])
    command("preprocess", *options, "--destdir", folder / "theirs", *found[3].split(), cwd=folder)
    return {path.name: path.read_bytes() for path in (folder / "theirs").iterdir() if path.name != "preprocess.log"}


def check_bytes(folder, shown):
    """Compare all that was written into *folder* with what the command that was shown writes."""
    theirs = fairseq_preprocess(folder, shown)
    ours = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert {name: ours.get(name) for name in theirs} == theirs
    assert {name for name in ours if name.endswith((".bin", ".idx"))} <= theirs.keys()
    return theirs


def commands_shown(out, count):
    lines = [line for line in out.splitlines() if line.startswith("  cd ")]
    assert len(lines) == count
    return lines


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_pairs_with_references_and_separators(vocabulary, tmp_path, workers, capsys):
    rows = [{"a": line, "p": f"{line} {i} </s>", "q": [line, "the cat"][: 1 + i % 2]} for i, line in enumerate(LINES)]
    for name, some in (("train", rows), ("valid", rows[:5]), ("test", rows[3:4])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    files = [x for name in ("train", "valid", "test") for x in (f"--{name}", tmp_path / f"{name}.jsonl")]
    keys = ["--source-keys", "a", "p", "--target-key", "q"]
    for separator in ("</s>", ","):
        folder = tmp_path / f"bin{ord(separator[0])}"
        call(
            "prepare pairs", *files, *keys, "--separator", separator, "--vocab-from", vocabulary, "--keep-encoded",
            "--workers", workers, "--destdir", folder,
        )  # fmt: skip
        shown = commands_shown(capsys.readouterr().out, 1)[0]
        theirs = check_bytes(folder, shown)
        assert len(theirs) == 3 * 2 * 2 + 2  # splits, sides, .bin and .idx; two dictionaries
        assert ("</s>" in (folder / "encoded" / "train.src").read_text(encoding="utf-8")) == (separator == "</s>")
        assert len(indexed_dataset.make_dataset(str(folder / "train.src-tgt.src"), "mmap")) == 60
        assert len((folder / "valid.ref1.txt").read_text(encoding="utf-8").splitlines()) == 5


@pytest.mark.slow
def test_one_input_and_its_labels(vocabulary, tmp_path, capsys):
    rows = [f"{label}\t{line}\n" for label, line in zip(["b", "a", "é"] * 20, LINES, strict=False)]
    (tmp_path / "t.tsv").write_text("".join(rows), encoding="utf-8")
    call(
        "prepare glue", "--train", tmp_path / "t.tsv", "--no-header", "--texts", 2, "--label", 1, "--keep-encoded",
        "--labels", "é", "b", "a", "--vocab-from", vocabulary, "--workers", 2, "--destdir", tmp_path / "bin",
    )  # fmt: skip
    for side, shown in zip(("input0", "label"), commands_shown(capsys.readouterr().out, 2), strict=True):
        assert len(check_bytes(tmp_path / "bin" / side, shown)) == 3


@pytest.mark.slow
def test_two_inputs_and_two_validation_sets(vocabulary, tmp_path, capsys):
    for name, content in test_glue.PUBLISHED["MNLI"].items():
        test_glue.write(tmp_path / name, test_glue.rows_of(content))
    call(
        "prepare glue", "--task", "mnli", "--data", tmp_path, "--keep-encoded", "--vocab-from", vocabulary,
        "--workers", 1, "--destdir", tmp_path / "bin",
    )  # fmt: skip
    shown = commands_shown(capsys.readouterr().out, 3)
    for side, line in zip(("input0", "input1", "label"), shown, strict=True):
        assert len(check_bytes(tmp_path / "bin" / side, line)) == 3 * 2 + 1


@pytest.mark.slow
def test_numbers_to_predict_stay_text(vocabulary, tmp_path, capsys):
    (tmp_path / "t.tsv").write_text("0.5\tthe cat\n-1\tsat\n")
    call(
        "prepare glue", "--train", tmp_path / "t.tsv", "--no-header", "--texts", 2, "--label", 1, "--keep-encoded",
        "--regression", "--vocab-from", vocabulary, "--workers", 1, "--destdir", tmp_path / "bin",
    )  # fmt: skip
    assert len(check_bytes(tmp_path / "bin" / "input0", commands_shown(capsys.readouterr().out, 1)[0])) == 3
    assert [path.name for path in (tmp_path / "bin" / "label").iterdir()] == ["train.label"]


@pytest.mark.parametrize("version", ["1.1", "2.0"])
def test_squad(vocabulary, tmp_path, version):
    """fairseq has no command for it, but a builder; the pieces are those of the tokenizer, one text at a time."""
    path, _ = squad_file(tmp_path, version)
    call("prepare squad", "--valid", path, "--vocab-from", vocabulary, "--destdir", tmp_path / "bin")
    bpe = tokenizer_files.load(str(vocabulary / "sentencepiece.model"))
    dictionary = Dictionary.load(str(vocabulary / "dict.txt"))
    theirs = {
        side: indexed_dataset.make_builder(str(tmp_path / f"{side}.bin"), "mmap", len(dictionary))
        for side in ("question", "passage")
    }
    theirs["extent"] = indexed_dataset.MMapIndexedDatasetBuilder(str(tmp_path / "extent.bin"), dtype=np.int32)
    for name, key, side in (("questions", "question", "question"), ("passages", "passage", "passage")):
        for line in (tmp_path / "bin" / f"valid.{name}.jsonl").read_text().splitlines():
            symbols, extents = bpe.encode_with_offsets(json.loads(line)[key])
            theirs[side].add_item(
                torch.tensor([dictionary.index(s) for s in symbols[: 64 if side == "question" else None]])
            )
            if side == "passage":
                theirs["extent"].add_item(torch.from_numpy(extents.ravel()))
    for side, builder in theirs.items():
        builder.finalize(str(tmp_path / f"{side}.idx"))
        for end in ("bin", "idx"):
            assert (tmp_path / "bin" / f"valid.{side}.{end}").read_bytes() == (tmp_path / f"{side}.{end}").read_bytes()


@pytest.mark.parametrize("kind", tokenizer_files.KINDS)
def test_lines_of_every_tokenizer(bpes, kind, tmp_path, monkeypatch):  # noqa: F811
    """By fairseq's binarizer, from the symbols; for any number of workers, in batches of any size."""
    model = str(tmp_path / kind)
    monkeypatch.setattr(tokenizer_files, "load", lambda *_: bpes[kind])
    write_dictionary(str(tmp_path / "dict.txt"), bpes[kind].symbols)
    dictionary = Dictionary.load(str(tmp_path / "dict.txt"))
    (tmp_path / "lines").write_text("".join(f"{line}\n" for line in LINES), encoding="utf-8")
    files = [str(tmp_path / "lines")] * 2
    encoded, ours, theirs = (str(tmp_path / name) for name in ("encoded", "ours", "theirs"))
    first = None
    for workers, size in ((1, 1 << 16), (1, 1), (2, 50)):
        monkeypatch.setattr(binarize, "CHUNK", size)
        count = binarize.write_lines(files, ours, model, workers, len(LINES), "test", encoded)
        FileBinarizer.multiprocess_dataset(
            encoded, "mmap", VocabularyDatasetBinarizer(dictionary, append_eos=True), theirs, len(dictionary)
        )
        for end in ("bin", "idx"):
            assert (tmp_path / f"ours.{end}").read_bytes() == (tmp_path / f"theirs.{end}").read_bytes()
        first = first or count
        assert count == first
    data = indexed_dataset.make_dataset(ours, "mmap")
    assert count.lines == len(data) == len(LINES)
    assert count.tokens == data.sizes.sum() - len(data)
    assert count.longest == data.sizes.max() - 1
    assert count.unknown == sum(int((line == dictionary.unk()).sum()) for line in data)
    with open(encoded, encoding="utf-8") as file:
        assert file.readline() == f"{bpes[kind].encode(LINES[0])} </s> {bpes[kind].encode(LINES[0])}\n"


def test_nothing_but_the_data_set_is_left(vocabulary, tmp_path):
    (tmp_path / "lines").write_text("the cat\nsat\n")
    binarize.write_lines(
        [str(tmp_path / "lines")], str(tmp_path / "a"), str(vocabulary / "sentencepiece.model"), 1, 2, ""
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bin", "a.idx", "lines"]


def test_lost_lines_are_noticed(vocabulary, tmp_path, monkeypatch):
    (tmp_path / "lines").write_text("the cat\nsat\na mat\n")

    def write():
        model = str(vocabulary / "sentencepiece.model")
        binarize.write_lines([str(tmp_path / "lines")], str(tmp_path / "a"), model, 1, 3, "")

    encode = encoding.Encoder.encode_lines
    monkeypatch.setattr(encoding.Encoder, "encode_lines", lambda self, lines, text: encode(self, lines[1:], text))
    with pytest.raises(PMLMError, match=r"a\.bin: 2 lines were encoded instead of 3$"):
        write()
    monkeypatch.undo()
    add = MMapWriter.add
    monkeypatch.setattr(MMapWriter, "add", lambda self, tokens, sizes: add(self, tokens[1:], sizes))
    with pytest.raises(PMLMError, match=r"a\.bin has \d+ bytes, and .*a\.idx is of \d+: one is cut or another's"):
        write()


def test_labels_are_classes_each_there_once(tmp_path):
    (tmp_path / "lines").write_text("b\na\nb\n")
    source, prefix = str(tmp_path / "lines"), str(tmp_path / "a")
    binarize.write_labels(source, prefix, ["a", "b"], 3)
    assert [line.tolist() for line in indexed_dataset.make_dataset(prefix, "mmap")] == [[5, 2], [4, 2], [5, 2]]
    with pytest.raises(PMLMError, match=r"the label 'a' is there twice among a, b, a"):
        binarize.write_labels(source, prefix, ["a", "b", "a"], 3)
    with pytest.raises(PMLMError, match=r"a\.bin: 3 lines were encoded instead of 4"):
        binarize.write_labels(source, prefix, ["a", "b"], 4)


def test_a_dictionary_is_copied_as_fairseq_copies_it(tmp_path):
    (tmp_path / "dict.txt").write_bytes("the 007\r\na\u00a0b 5\r\n<mask> 1\n<pseudo> 1".encode())
    Dictionary.load(str(tmp_path / "dict.txt")).save(str(tmp_path / "theirs"))
    binarize.copy_dictionary(str(tmp_path / "dict.txt"), str(tmp_path / "a"), str(tmp_path / "b"))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_the_command_is_shown_as_a_person_types_it(capsys):
    binarize.print_command("my bin", ["--only-source"], 2, kept=False)
    assert capsys.readouterr().out == (
        "the same by fairseq's own command (with the text that --keep-encoded leaves):\n"
        "  cd 'my bin' && fairseq-preprocess --only-source --destdir . --workers 3\n"
    )
