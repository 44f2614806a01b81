"""The prepare commands, run as a person runs them; bad input mostly in this process, since a start takes seconds."""

import contextlib
import gzip
import itertools
import json
import multiprocessing
import os
import pathlib
import random
import signal

import pytest
import sentencepiece
from commands import call, pmlm
from fairseq.data import Dictionary, indexed_dataset

from fairseq_pmlm.preparation import binarize, chunks
from fairseq_pmlm.tokenizers import files as tokenizer_files
from fairseq_pmlm.utils import directories
from fairseq_pmlm.utils.errors import PMLMError

WORDS = ["the", "cat", "sat", "on", "a", "mat", "dog", "runs", "안녕하세요", "세계", "좋은", "아침"]
WORDS += ["Tiếng", "Việt", "rất", "đẹp", "</s>", "<mask>", "<unk>", "[SEP]"]


def run(name, *arguments):
    """Run a command; returns its exit status, stdout and the lines of stderr that a plain start does not print."""
    ran = pmlm(name, *arguments, check=False)
    return ran.returncode, ran.stdout, [line for line in ran.stderr.splitlines() if not line.startswith("INFO:")]


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def ids(folder, name):
    data = indexed_dataset.make_dataset(str(folder / name), impl="mmap")
    return [data[i].tolist() for i in range(len(data))]


def texts(folder, name, dictionary="dict.txt"):
    """The texts of a binarized data set, through fairseq's dictionary and our tokenizer."""
    symbols = Dictionary.load(str(folder / dictionary))
    bpe = tokenizer_files.load(str(folder / "sentencepiece.model"))
    return [bpe.decode(symbols.string(line)) for line in ids(folder, name)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A directory of texts: 40 documents that spell special symbols, and characters that break lines."""
    folder = tmp_path_factory.mktemp("corpus")
    draw = random.Random(0)
    lines = [" ".join(draw.choices(WORDS, k=draw.randint(3, 9))) for _ in range(120)]
    documents = ["\n".join(lines[i : i + 3]) for i in range(0, 120, 3)]
    (folder / "a.txt").write_text("\n\n".join(documents[:20]) + "\n\n\u200b\n\nthe\u2028cat\tsat\n", encoding="utf-8")
    (folder / "sub").mkdir()
    with gzip.open(folder / "sub" / "b.txt.gz", "wt", encoding="utf-8") as f:
        f.write("\n\n\n".join(documents[20:]))
    (folder / "empty.txt").write_text("")
    return folder


@pytest.fixture(scope="module")
def prepared(corpus, tmp_path_factory):
    """What pmlm prepare text makes of the corpus with three workers, and what it says."""
    destdir = tmp_path_factory.mktemp("prepared") / "new" / "bin"
    status, out, errors = run(
        "prepare text", "--text", corpus, "--vocab-size", 60, "--character-coverage", 1, "--valid-fraction", 0.1,
        "--workers", 3, "--keep-encoded", "--destdir", destdir,
    )  # fmt: skip
    assert (status, errors) == (0, [])
    return destdir, out


def test_pretraining_directory(prepared):
    destdir, out = prepared
    files = ["dict.txt", "encoded", "report.json", "sentencepiece.model"]
    files += ["train.bin", "train.idx", "valid.bin", "valid.idx"]
    assert sorted(os.listdir(destdir)) == files
    assert os.listdir(destdir.parent) == ["bin"]
    dictionary = Dictionary.load(str(destdir / "dict.txt"))
    assert len(dictionary) == 60 + 3
    assert dictionary.symbols[-2:] == ["<mask>", "<pseudo>"]
    assert "3 files (1 empty)" in out
    assert "42 documents, 122 lines; replaced characters: 2 (U+2028 1, tab 1)" in out
    assert "left out: 1" in out  # the zero-width space
    assert "fairseq-preprocess --only-source --srcdict dict.txt --trainpref=encoded/train" in out


def test_pretraining_text_comes_back(corpus, prepared):
    destdir, _ = prepared
    found = texts(destdir, "train") + texts(destdir, "valid")
    expected = (corpus / "a.txt").read_text(encoding="utf-8").replace("\u2028", " ").replace("\t", " ").split("\n")
    with gzip.open(corpus / "sub" / "b.txt.gz", "rt", encoding="utf-8") as f:
        expected += f.read().split("\n")
    assert sorted(filter(None, found)) == sorted(line for line in expected if line.strip("\u200b"))
    for name, documents in (("train", 37), ("valid", 4)):
        lengths = [len(line) for line in ids(destdir, name)]
        assert lengths.count(1) == documents - 1  # </s> alone: between documents, at neither end, never twice
        assert lengths[0] > 1
        assert lengths[-1] > 1
        assert all(a > 1 or b > 1 for a, b in itertools.pairwise(lengths))
        used = {i for line in ids(destdir, name) for i in line[:-1]}
        assert not used & {0, 1, 2, 3, 61, 62}  # no special symbol, nothing unknown


def test_same_bytes_for_any_number_of_workers(corpus, prepared, tmp_path, monkeypatch):
    monkeypatch.setattr(chunks, "SIZE", 100)  # many chunks
    call(
        "prepare text", "--text", corpus, "--vocab-size", 60, "--character-coverage", 1, "--valid-fraction", 0.1,
        "--workers", 1, "--destdir", tmp_path / "one",
    )  # fmt: skip
    three = {path.name: path.read_bytes() for path in prepared[0].iterdir() if path.is_file()}
    one = contents(tmp_path / "one")
    reports = [json.loads(files.pop("report.json")) for files in (one, three)]
    assert one == three
    for numbers in (numbers for report in reports for numbers in report["wrote"].values()):
        assert numbers.pop("seconds") >= 0
        assert numbers.pop("tokens_per_second") > 0
    assert reports[0] == reports[1]


@pytest.fixture(scope="module")
def pairs(prepared, tmp_path_factory):
    """JSON lines, and the directory that pmlm prepare pairs made of them."""
    folder = tmp_path_factory.mktemp("pairs")
    train = [{"src": f"the cat\u2028sat </s> {word}", "tgt": f"a\n{word}\tmat"} for word in WORDS]
    valid = [{"src": "a dog", "tgt": ["the cat", "a cat\x0csat"]}, {"src": "the dog", "tgt": "안녕하세요 세계"}]
    for name, records in (("train", train), ("valid", valid)):
        lines = [json.dumps(record, ensure_ascii=False) for record in records]
        (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    with gzip.open(folder / "test.jsonl.gz", "wt", encoding="utf-8") as f:
        f.write('\ufeff{"src": "runs", "tgt": "runs"}\n\n{"src": "\\u200b", "tgt": "runs"}\n')
    status, out, errors = run(
        "prepare pairs", "--train", folder / "train.jsonl", "--valid", folder / "valid.jsonl",
        "--test", folder / "test.jsonl.gz", "--skip-empty", "--vocab-from", prepared[0],
        "--workers", 2, "--destdir", folder / "bin",
    )  # fmt: skip
    assert (status, errors) == (0, [])
    return folder, out


def test_seq2seq_directory(prepared, pairs):
    folder, out = pairs[0] / "bin", pairs[1]
    names = [
        f"{s}.src-tgt.{side}.{end}"
        for s in ("train", "valid", "test")
        for side in ("src", "tgt")
        for end in ("bin", "idx")
    ]
    names += [f"{s}.{side}.txt" for s in ("train", "valid", "test", "dict") for side in ("src", "tgt")]
    assert sorted(os.listdir(folder)) == sorted(
        [*names, "dict.txt", "sentencepiece.model", "valid.ref0.txt", "valid.ref1.txt"]
    )
    dictionary = (prepared[0] / "dict.txt").read_bytes()
    assert dictionary == (folder / "dict.txt").read_bytes() == (folder / "dict.src.txt").read_bytes()
    assert dictionary == (folder / "dict.tgt.txt").read_bytes()
    assert f"train: {len(WORDS)} records" in out
    assert f"(U+2028 {len(WORDS)}, line feed {len(WORDS)}, tab {len(WORDS)})" in out
    assert "test: 1 records of 2 (1 empty ones left out, 1 blank lines)" in out


def test_seq2seq_text_comes_back(pairs):
    folder = pairs[0] / "bin"
    assert texts(folder, "train.src-tgt.src", "dict.src.txt") == [f"the cat sat </s> {word}" for word in WORDS]
    assert texts(folder, "train.src-tgt.tgt", "dict.tgt.txt") == [f"a {word} mat" for word in WORDS]
    assert texts(folder, "valid.src-tgt.tgt", "dict.tgt.txt") == ["the cat", "안녕하세요 세계"]
    assert (folder / "train.src.txt").read_text(encoding="utf-8").split("\n")[0] == "the cat sat </s> the"
    assert (folder / "valid.ref0.txt").read_text(encoding="utf-8") == "the cat\n안녕하세요 세계\n"
    assert (folder / "valid.ref1.txt").read_text(encoding="utf-8") == "a cat sat\n안녕하세요 세계\n"


def test_parts_of_a_source_around_the_symbol(prepared, tmp_path):
    rows = [{"a": "the dog </s>", "p": f"a dog sat {word}", "q": "runs"} for word in WORDS]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    call(
        "prepare pairs", "--train", tmp_path / "a.jsonl", "--source-keys", "a", "p", "--target-key", "q",
        "--separator", "</s>", "--vocab-from", prepared[0], "--workers", 2, "--destdir", tmp_path / "bin",
    )  # fmt: skip
    folder = tmp_path / "bin"
    bpe = tokenizer_files.load(str(folder / "sentencepiece.model"))
    symbols = Dictionary.load(str(folder / "dict.txt"))
    for row, line in zip(rows, ids(folder, "train.src-tgt.src"), strict=True):
        parts = [[symbols.index(symbol) for symbol in bpe.encode(row[key]).split()] for key in "ap"]
        assert line == [*parts[0], symbols.eos(), *parts[1], symbols.eos()]
    assert (folder / "train.src.txt").read_text(encoding="utf-8").startswith("the dog </s> </s> a dog sat the\n")
    assert not list(folder.glob("*part*"))


def test_error_is_one_line_and_leaves_nothing(corpus, tmp_path):
    (tmp_path / "bad.txt").write_bytes("the cat\nviệt".encode() + b"\xe1\n")
    status, out, errors = run(
        "prepare text",
        "--text",
        corpus,
        tmp_path / "bad.txt",
        "--vocab-size",
        90,
        "--destdir",
        tmp_path / "x" / "y",
    )
    assert status == 1
    assert errors == [f"fairseq_pmlm: error: {tmp_path / 'bad.txt'}, line 2: not UTF-8 (byte 0xe1 at column 7)"]
    assert "Traceback" not in out
    assert os.listdir(tmp_path) == ["bad.txt"]


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (None, ["--vocab-size", 50], "no such file or directory: .*a.txt"),
        ("", ["--vocab-size", 50], "the corpus is empty"),
        (" \n\n\u3000\n", ["--vocab-size", 50], "the corpus is empty"),
        ("one document", ["--vocab-size", 50], "the corpus is 1 document, too few to take 1 out for validation"),
        ("word", ["--vocab-size", 50, "--valid-fraction", 0], "--vocab-size 50: .*too small for it; at most 8"),
        ("the cat\n\nsat", ["--vocab-size", 5, "--seed", 4], "--vocab-size 5: .* at least (7|9), or lower"),
        ("\u200b", ["--vocab-size", 50, "--valid-fraction", 0], "--vocab-size 50: there is no text to train on"),
        ("a\n\nb", ["--sentencepiece-model", "nowhere"], "no such sentencepiece model: nowhere"),
        ("a\n\nb", ["--sentencepiece-model", __file__], r"test_prepare\.py is not a sentencepiece model"),
        ("a\n\nb", ["--vocab-size", 50, "--valid", "a.txt"], r"a\.txt is both in --text and in --valid"),
    ],
)
def test_bad_corpora(tmp_path, monkeypatch, content, options, message):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / "a.txt").write_text(content, encoding="utf-8")
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(PMLMError, match=message) as error:
        call("prepare text", "--text", tmp_path / "a.txt", "--destdir", tmp_path / "bin", *options)
    assert "\n" not in str(error.value)
    assert sorted(os.listdir(tmp_path)) == before


def test_not_a_gzip_file(tmp_path):
    (tmp_path / "a.gz").write_text("text")
    with pytest.raises(PMLMError, match=r"a\.gz: not a gzip file"):
        call("prepare text", "--text", tmp_path, "--vocab-size", 50, "--destdir", tmp_path / "bin")
    assert os.listdir(tmp_path) == ["a.gz"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"src": "a"', "line 2: broken JSON"),
        ('{"src": "a"}', "line 2: no key 'tgt'"),
        ('{"src": 3, "tgt": "b"}', "line 2, key 'src': not text, but a number"),
        ('{"src": "a", "tgt": null}', "line 2, key 'tgt': not text, but null"),
        ('{"src": " \\n", "tgt": "b"}', "line 2, key 'src': empty"),
        ('{"src": "a", "tgt": "\\u200b"}', "line 2, key 'tgt': empty"),
        ('{"src": "a", "tgt": []}', "line 2, key 'tgt': an empty list of references"),
        ('{"src": ["a", 1], "tgt": "b"}', "line 2, key 'src': not text, but a list"),
        ('{"src": "a", "tgt": ["b", ["c"]]}', "line 2, key 'tgt': not text, but a list"),
    ],
)
def test_bad_pairs(prepared, tmp_path, line, message):
    path = tmp_path / "a.jsonl"
    path.write_text('{"src": "a", "tgt": "b"}\n' + line)
    with pytest.raises(PMLMError, match=f"^{path}, {message}"):
        call("prepare pairs", "--train", path, "--vocab-from", prepared[0], "--destdir", tmp_path / "bin")
    assert os.listdir(tmp_path) == ["a.jsonl"]


def test_bad_vocabularies(prepared, pairs, tmp_path):
    options = ["--train", pairs[0] / "train.jsonl", "--destdir", tmp_path / "bin", "--vocab-from", tmp_path]
    with pytest.raises(PMLMError, match=r"it has no dict\.txt"):
        call("prepare pairs", *options)
    (tmp_path / "dict.txt").write_text("the 1\n")
    with pytest.raises(PMLMError, match=r"it has no sentencepiece\.model"):
        call("prepare pairs", *options)
    (tmp_path / "sentencepiece.model").write_bytes((prepared[0] / "sentencepiece.model").read_bytes())
    with pytest.raises(PMLMError, match=r"dict\.txt was not made from sentencepiece\.model next to it"):
        call("prepare pairs", *options)


def test_existing_directories(tmp_path):
    destdir = tmp_path / "bin"
    destdir.mkdir()
    with directories.building(str(destdir), False, binarize.OURS) as folder:  # empty: fine
        (pathlib.Path(folder) / "dict.txt").write_text("old")
    with (
        pytest.raises(PMLMError, match="already holds a corpus"),
        directories.building(str(destdir), False, binarize.OURS),
    ):
        pass
    with pytest.raises(TypeError), directories.building(str(destdir), True, binarize.OURS) as folder:
        (pathlib.Path(folder) / "dict.txt").write_text(None)
    assert contents(destdir) == {"dict.txt": b"old"}
    with directories.building(str(destdir), True, binarize.OURS) as folder:
        (pathlib.Path(folder) / "dict.txt").write_text("new")
    assert contents(destdir) == {"dict.txt": b"new"}
    (destdir / "checkpoint.pt").write_text("precious")
    with (
        pytest.raises(PMLMError, match=r"other files \(checkpoint\.pt\)"),
        directories.building(str(destdir), True, binarize.OURS),
    ):
        pass
    assert os.listdir(tmp_path) == ["bin"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seed", -1], "--seed -1: must be from 0 to 4294967295"),
        (["--vocab-size", 1], "--vocab-size 1: must be from 4 to"),
        (["--vocab-size", 10**11], "--vocab-size 100000000000: must be from 4 to"),
        (["--vocab-size", 0], "--vocab-size: '0' is not a whole number of at least 1"),
        (["--valid-fraction", 1], "--valid-fraction 1.0: must be at least 0"),
        (["--character-coverage", "nan"], "--character-coverage nan: must be between"),
        (["--shard-size", "9" * 400], "9' is not a number of bytes, such as 500M or 2G"),
        (["--destdir", "a:b"], "--destdir: 'a:b' will not do: fairseq takes ':' for the end"),
        (["--destdir", ""], "--destdir: '' will not do"),
    ],
)
def test_options_out_of_range(options, message, capsys):
    with pytest.raises(SystemExit):
        call("prepare text", "--text", "x", "--vocab-size", 50, "--destdir", "d", *options)
    assert message in capsys.readouterr().err


def test_whoever_is_first_has_written_a_directory(tmp_path):
    destdir = tmp_path / "bin"

    def write(text, **options):
        with directories.building(str(destdir), ours=binarize.OURS, **options) as folder:
            (pathlib.Path(folder) / "dict.txt").write_text(text)
            destdir.mkdir(exist_ok=True)
            (destdir / "dict.txt").write_text("of another")  # as another process does meanwhile

    for options in ({"overwrite": False}, {"overwrite": False, "shared": True}):
        with contextlib.nullcontext() if "shared" in options else pytest.raises(PMLMError, match="another process has"):
            write("mine", **options)
        assert contents(destdir) == {"dict.txt": b"of another"}
    write("mine", overwrite=True)
    assert contents(destdir) == {"dict.txt": b"mine"}
    assert os.listdir(tmp_path) == ["bin"]


def test_a_stop_between_two_renamings_loses_nothing(tmp_path, monkeypatch):
    destdir = tmp_path / "bin"
    destdir.mkdir()
    (destdir / "dict.txt").write_text("old")
    rename = os.rename

    def stop(source, target):
        rename(source, target)
        if source == str(destdir):
            raise SystemExit(143)

    monkeypatch.setattr(os, "rename", stop)
    with pytest.raises(SystemExit), directories.building(str(destdir), True, binarize.OURS) as folder:
        (pathlib.Path(folder) / "dict.txt").write_text("new")
    assert contents(destdir) == {"dict.txt": b"old"}
    assert os.listdir(tmp_path) == ["bin"]


def test_what_is_read_is_not_replaced(prepared, pairs, tmp_path):
    """--overwrite with an input in --destdir."""
    folder = tmp_path / "bin"
    call(
        "prepare pairs", "--train", pairs[0] / "train.jsonl", "--vocab-from", prepared[0], "--workers", 1,
        "--destdir", folder,
    )  # fmt: skip
    before, texts = contents(folder), [folder / "train.src.txt", folder / "train.tgt.txt"]
    for name, options in (
        ("prepare pairs", ["--train", *texts, "--vocab-from", folder]),
        ("prepare text", ["--text", texts[0], "--vocab-size", 50]),
        ("prepare text", ["--text", pairs[0], "--vocab-from", folder, "--shard-size", "1M"]),
    ):
        with pytest.raises(PMLMError, match=r"would be replaced, but .* in it is read"):
            call(name, *options, "--destdir", folder, "--overwrite")
    assert contents(folder) == before


def build_and_die(destdir, number):
    with directories.building(destdir, False, binarize.OURS) as folder:
        (pathlib.Path(folder) / "dict.txt").touch()
        os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_killed_half_way(tmp_path, number):
    process = multiprocessing.get_context("fork").Process(
        target=build_and_die, args=(str(tmp_path / "new" / "bin"), number)
    )
    process.start()
    process.join()
    assert process.exitcode == (143 if number == signal.SIGTERM else -9)
    assert not (tmp_path / "new" / "bin").exists()
    if number == signal.SIGTERM:
        assert os.listdir(tmp_path) == []


def test_given_sentencepiece_model_and_files_as_documents(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / "text" / name).mkdir(parents=True)
        (tmp_path / "text" / name / "x.txt").write_text(f"the cat {name}\n\nsat\n")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the cat sat on a mat b c"] * 3), model_prefix=str(tmp_path / "given"),
        vocab_size=15, minloglevel=2,
    )  # fmt: skip
    call(
        "prepare text", "--text", tmp_path / "text" / "a", tmp_path / "text" / "b", "--documents", "files",
        "--valid", tmp_path / "text" / "c", "--sentencepiece-model", tmp_path / "given.model",
        "--workers", 1, "--destdir", tmp_path / "bin",
    )  # fmt: skip
    assert texts(tmp_path / "bin", "train") == ["the cat a", "sat", "", "the cat b", "sat"]
    assert texts(tmp_path / "bin", "valid") == ["the cat c", "sat"]
    assert (tmp_path / "bin" / "sentencepiece.model").read_bytes() == (tmp_path / "given.model").read_bytes()
