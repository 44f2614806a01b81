"""Shards: what fairseq would have written, whatever happens on the way. One directory is tested in test_prepare.py."""

import json
import multiprocessing
import os
import pathlib
import random
import signal
import sys

import numpy as np
import pytest
from commands import ROOT, call, command
from fairseq.data import Dictionary, indexed_dataset

from fairseq_pmlm.data import indexed
from fairseq_pmlm.preparation import chunks, encoding
from fairseq_pmlm.tasks.pmlm import PMLMTask, PMLMTaskConfig
from fairseq_pmlm.tokenizers import files as tokenizer_files
from fairseq_pmlm.utils.errors import PMLMError

WORDS = ["the", "cat", "sat", "on", "a", "mat", "dog", "runs", "안녕하세요", "세계", "Tiếng", "Việt", "</s>", "\u200b"]
OPTIONS = ["--vocab-size", 40, "--character-coverage", 1, "--valid-fraction", 0.1, "--shard-size", "3K"]
OPTIONS += ["--deduplicate"]


@pytest.fixture(autouse=True)
def _many_chunks(monkeypatch):
    monkeypatch.setattr(chunks, "SIZE", 300)
    monkeypatch.setattr(chunks, "LONG", 600)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Two files of 150 documents, every tenth of which comes a second time, with other white space."""
    folder, draw = tmp_path_factory.mktemp("corpus"), random.Random(0)
    lines = [
        [" ".join(draw.choices(WORDS, k=draw.randint(1, 9))) for _ in range(draw.randint(1, 4))] for _ in range(150)
    ]
    lines[70] = lines[70] * 40  # longer than a chunk
    for i in range(9, 150, 10):
        lines[i] = [line.replace(" ", "  ") for line in lines[i - 5]]
    for name, part in (("a.txt", lines[:60]), ("b.txt", lines[60:])):
        (folder / name).write_text("\n\n".join("\n".join(document) for document in part), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def shards(corpus, tmp_path_factory):
    """What an uninterrupted run with one worker makes of it."""
    destdir = tmp_path_factory.mktemp("shards") / "bin"
    size, long = chunks.SIZE, chunks.LONG
    chunks.SIZE, chunks.LONG = 300, 600  # module-scoped: before the other fixture
    call("prepare text", "--text", corpus, "--destdir", destdir, *OPTIONS, "--workers", 1)
    chunks.SIZE, chunks.LONG = size, long
    return destdir


def contents(folder):
    """Every file below a directory but for reports, which hold times."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(pathlib.Path(folder).rglob("*"))
        if path.is_file() and path.name != "report.json"
    }


def documents_of(prefix):
    """Documents of a binarized text, as lists of lists of numbers."""
    data, found = indexed_dataset.make_dataset(str(prefix), impl="mmap"), [[]]
    for i in range(len(data)):
        *line, end = data[i].tolist()
        assert end == 2
        if line:
            found[-1].append(line)
        else:
            found.append([])
    return found


def test_every_document_once(corpus, shards):
    """Against obvious code: read everything, drop what came before, encode by the line through fairseq's dictionary."""
    bpe = tokenizer_files.load(str(shards / "shard00" / "sentencepiece.model"))
    dictionary = Dictionary.load(str(shards / "shard00" / "dict.txt"))
    seen, expected = set(), []
    for name in ("a.txt", "b.txt"):
        for document in (corpus / name).read_text(encoding="utf-8").split("\n\n"):
            key = " ".join(document.split())
            if key not in seen:
                lines = [
                    dictionary.encode_line(bpe.encode(line), add_if_not_exist=False) for line in document.split("\n")
                ]
                expected.append([line[:-1].tolist() for line in lines if len(line) > 1])
            seen.add(key)
    folders = sorted(path for path in shards.iterdir() if path.name.startswith("shard"))
    assert [path.name for path in folders] == [f"shard{i:02}" for i in range(len(folders))]
    assert len(folders) > 2
    train = [document for folder in folders for document in documents_of(folder / "train")]
    valid = documents_of(shards / "shard00" / "valid")
    fates = np.load(shards / "plan" / "text" / "fates.npy")
    fates = fates[fates != 2]
    assert len(fates) == len(expected)
    assert len(valid) == round(len(expected) * 0.1)
    for found, fate in ((train, 0), (valid, 1)):
        assert found == [document for document, its in zip(expected, fates, strict=True) if its == fate and document]
    for folder in folders:
        files = {"dict.txt", "report.json", "sentencepiece.model", "train.bin", "train.idx"}
        files |= {"valid.bin", "valid.idx"} if folder is folders[0] else set()
        assert set(os.listdir(folder)) == files
    report = json.loads((shards / "report.json").read_text())
    assert report["shards"] == [path.name for path in folders]
    assert report["wrote"]["train"]["tokens"] == sum(len(line) for document in train for line in document)
    assert report["wrote"]["train"]["tokens_per_second"] > 0
    assert report["dropped_documents"] == {"duplicate": 150 - len(expected)}
    twice = sum(document.count("\n") + 1 for document in duplicates_in(corpus))
    assert report["dropped_lines"]["of_duplicate_documents"] == twice
    lines = report["read"]["train"]["lines"]
    kept = sum(len(document) for document in [*train, *valid])
    assert lines == kept + twice + report["dropped_lines"]["without_any_token"]


def test_duplicates_in_files_to_validate_on_are_counted(corpus, shards, tmp_path):
    """Those as well that fill a chunk, which holds nothing to validate on then."""
    document = "\n".join(["the cat sat on a mat"] * 30)
    (tmp_path / "valid.txt").write_text("\n\n".join([document] * 3), encoding="utf-8")
    call(
        "prepare text", "--text", corpus, "--valid", tmp_path / "valid.txt", "--deduplicate", "--workers", 1,
        "--sentencepiece-model", shards / "shard00" / "sentencepiece.model", "--destdir", tmp_path / "bin",
    )  # fmt: skip
    report = json.loads((tmp_path / "bin" / "report.json").read_text())
    twice = sum(document.count("\n") + 1 for document in duplicates_in(corpus))
    assert report["dropped_lines"]["of_duplicate_documents"] == twice + 60


def duplicates_in(corpus):
    seen = set()
    for name in ("a.txt", "b.txt"):
        for document in (corpus / name).read_text(encoding="utf-8").split("\n\n"):
            key = " ".join(document.split())
            if key in seen:
                yield document
            seen.add(key)


def test_same_bytes_for_any_number_of_workers_and_chunks(corpus, shards, tmp_path):
    call("prepare text", "--text", corpus, "--destdir", tmp_path / "bin", *OPTIONS, "--workers", 3)
    assert contents(tmp_path / "bin") == contents(shards)


def in_process(*arguments, die_at=None):
    """The script in a process of its own, which kills itself when it adds the *die_at*-th part; its exit code."""

    def run():
        os.setpgrp()
        added, add = 0, indexed.MMapWriter.add

        def add_and_die(*args):
            nonlocal added
            add(*args)
            added += 1
            if added == die_at:
                os.kill(os.getpid(), signal.SIGKILL)

        indexed.MMapWriter.add = add_and_die
        with open(os.devnull, "w") as quiet:
            sys.stdout = sys.stderr = quiet
            call("prepare text", *arguments)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join()
    return process.exitcode


def test_killed_at_any_moment_it_goes_on(corpus, shards, tmp_path, capsys):
    arguments = ["--text", corpus, "--destdir", tmp_path / "bin", *OPTIONS, "--workers", 2]
    kills = 0
    while in_process(*arguments, die_at=25) == -signal.SIGKILL:
        kills += 1
        whole = contents(shards)
        for name, content in contents(tmp_path / "bin").items():
            assert ".building-" in name or content == whole[name]
    assert kills >= 3
    assert contents(tmp_path / "bin") == contents(shards)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "bin").rglob("*.bin")}
    call("prepare text", *arguments)
    out = capsys.readouterr().out
    assert f"{len(before) - 2} of {len(before) - 2} shards are there already" in out
    assert out.splitlines()[-1] == ":".join(str(path) for path in sorted((tmp_path / "bin").glob("shard*")))
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "bin").rglob("*.bin")}


def test_jobs_make_what_one_run_makes(corpus, shards, tmp_path, capsys):
    arguments = ["--text", corpus, "--destdir", tmp_path / "bin", *OPTIONS, "--workers", 1]
    with pytest.raises(PMLMError, match=r"there is no plan in .*; run the same command with --only-plan first"):
        call("prepare text", *arguments, "--job", "0/3")
    assert os.listdir(tmp_path) == []
    call("prepare text", *arguments, "--only-plan")
    assert os.listdir(tmp_path / "bin") == ["plan"]
    assert "--job 0/N to --job N-1/N" in capsys.readouterr().out
    for i in (2, 0):
        assert in_process(*arguments, "--job", f"{i}/3") == 0
        assert not (tmp_path / "bin" / "report.json").exists()
    call("prepare text", *arguments, "--job", "1/3")
    assert contents(tmp_path / "bin") == contents(shards)
    ours, theirs = (json.loads((folder / "report.json").read_text()) for folder in (tmp_path / "bin", shards))
    for report in (ours, theirs):
        for numbers in report["wrote"].values():
            del numbers["seconds"], numbers["tokens_per_second"]
    assert ours == theirs


def test_other_options_or_other_text_are_refused(corpus, tmp_path):
    text = tmp_path / "text"
    text.mkdir()
    for path in corpus.iterdir():
        (text / path.name).write_bytes(path.read_bytes())
    options = ["--text", text, "--destdir", tmp_path / "bin", "--workers", 1, "--shard-size", "3K"]
    call("prepare text", *options, "--vocab-size", 40, "--only-plan")
    before = contents(tmp_path / "bin")
    for changed, message in (
        (["--vocab-size", 41], "was begun with --vocab-size 40, not 41; give the same"),
        (["--vocab-size", 40, "--seed", 2], "was begun with --seed 1, not 2"),
        (["--vocab-size", 40, "--shard-size", "4K"], "was begun with --shard-size 3000, not 4000"),
        (["--vocab-size", 40, "--deduplicate"], "was begun with --deduplicate False, not True"),
        (["--vocab-size", 40, "--text", text / "a.txt"], r"b\.txt was left out since"),
        (["--sentencepiece-model", tmp_path / "bin" / "plan" / "vocabulary" / "sentencepiece.model"], "was begun with"),
    ):
        with pytest.raises(PMLMError, match=message):
            call("prepare text", *options, *changed)
    os.utime(text / "b.txt", ns=(0, 0))
    with pytest.raises(PMLMError, match=r"b\.txt was changed since"):
        call("prepare text", *options, "--vocab-size", 40)
    assert contents(tmp_path / "bin") == before
    (text / "b.txt").write_text("something else\n\nin two documents\n")
    call("prepare text", *options, "--vocab-size", 36, "--overwrite", "--valid-fraction", 0, "--seed", 3)
    assert "shard00" in os.listdir(tmp_path / "bin")


def test_directories_that_hold_something_else(corpus, shards, tmp_path):
    options = ["--text", corpus, "--vocab-size", 40, "--workers", 1]
    (tmp_path / "checkpoint.pt").touch()
    with pytest.raises(PMLMError, match=r"holds other files \(checkpoint\.pt\)"):
        call("prepare text", *options, "--destdir", tmp_path, "--shard-size", "3K", "--overwrite")
    (tmp_path / "checkpoint.pt").unlink()
    (tmp_path / "dict.txt").touch()
    with pytest.raises(PMLMError, match="already holds a corpus without shards"):
        call("prepare text", *options, "--destdir", tmp_path, "--shard-size", "3K")
    with pytest.raises(PMLMError, match="already holds a corpus"):
        call("prepare text", *options, "--destdir", shards)


@pytest.mark.parametrize(
    "options",
    [["--shard-size", "0"], ["--shard-size", "2X"], ["--only-plan"], ["--job", "0/2"]]
    + [["--shard-size", "1M", "--job", job] for job in ("2/2", "1", "a/b")]
    + [["--shard-size", "1M", "--job", "0/2", "--overwrite"], ["--shard-size", "1M", "--job", "0/2", "--only-plan"]],
)
def test_options_that_do_not_go_together(tmp_path, capsys, options):
    with pytest.raises(SystemExit):
        call("prepare text", "--text", tmp_path, "--vocab-size", 9, "--destdir", tmp_path / "x", *options)
    last = capsys.readouterr().err.splitlines()[-1]
    assert "error: " in last
    assert options[-1].lstrip("-") in last or "go" in last


def test_epochs_visit_the_shards_and_each_block_once(shards):
    """Two epochs over two shards see each token of both once, the third is the first again; validation is one set."""
    data = f"{shards / 'shard00'}:{shards / 'shard01'}"
    config = PMLMTaskConfig(data=data, tokens_per_sample=19, sample_break_mode="none", seed=1)
    task = PMLMTask.setup_task(config)
    seen, valid = [], []
    for epoch in (1, 2, 3):
        task.load_dataset("train", epoch=epoch)
        task.load_dataset("valid", epoch=1)
        iterator = task.get_batch_iterator(task.dataset("train"), max_sentences=4, seed=1, epoch=epoch)
        ids = [int(i) for batch in iterator.next_epoch_itr() for i in batch["id"]]
        assert sorted(ids) == list(range(len(task.dataset("train"))))
        seen.append(np.concatenate([task.dataset("train").blocks[i][0] for i in sorted(ids)]).tolist())
        valid.append(len(task.dataset("valid")))
    for tokens, name in zip(seen, ("shard00", "shard01", "shard00"), strict=True):
        assert tokens == [i for document in documents_of(shards / name / "train") for line in document for i in line]
    assert len(set(valid)) == 1


@pytest.mark.slow
def test_bytes_of_fairseq_preprocess(corpus, tmp_path):
    """fairseq's own command on the encoded text that --keep-encoded leaves; for a dictionary of more than 65,500 types
    see test_mmap_writer.py."""
    destdir = tmp_path / "bin"
    call(
        "prepare text", "--text", corpus, "--destdir", destdir, "--vocab-size", 40, "--keep-encoded",
        "--workers", 2,
    )  # fmt: skip
    encoded = destdir / "encoded"
    command(
        "preprocess", "--only-source", "--srcdict", destdir / "dict.txt", "--trainpref", encoded / "train",
        "--validpref", encoded / "valid", "--destdir", tmp_path / "theirs", "--workers", 1, cwd=ROOT,
    )  # fmt: skip
    for name in ("train.bin", "train.idx", "valid.bin", "valid.idx", "dict.txt"):
        assert (destdir / name).read_bytes() == (tmp_path / "theirs" / name).read_bytes(), name


def test_lines_keep_their_place_between_chunks(tmp_path):
    """An empty line between documents that have any tokens, whatever chunks they come in."""
    line = encoding.Part(np.array([7, 2]), np.array([2]))
    nothing = encoding.Part(np.array([]), np.array([]), before=True)
    parts = [
        nothing,
        line,
        line,
        nothing,
        nothing,
        line,
        encoding.Part(np.array([8, 2]), np.array([2]), after=True),
        line,
    ]
    written = encoding.write(parts, str(tmp_path / "a"), 100)
    assert documents_of(tmp_path / "a") == [[[7], [7]], [[7], [8]], [[7]]]
    assert written.lines == 2  # the parts count their own
