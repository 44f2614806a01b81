"""The README's commands for text that a user has tokenized himself, with a dictionary of fairseq's own making."""

import re
import shlex

import pytest
from commands import ROOT, SMALL, USER_DIR, command, hypotheses, load, refused, sentences

pytestmark = pytest.mark.slow

TINY = ["--arch", "pmlm_tiny", *SMALL, "--cpu", "--log-format", "json", "--max-tokens", 800]
TINY += ["--lr", 0.003, "--warmup-updates", 5, "--total-num-update", 20, "--max-update", 20]
# appended to the README's own options: of an option that is there twice, the last one counts
SHORT = {
    "pmlm": [*TINY, "--tokens-per-sample", 32],
    "pmlm_seq2seq": [*TINY, "--max-source-positions", 40, "--max-target-positions", 12],
}


def split(line):
    """As a user's tokenizer might: w17 becomes w1@@ 7."""
    return re.sub(r"(w\d)(\d)", r"\1@@ \2", line)


def readme_commands():
    """The commands under the README's heading, as lists of words."""
    block = re.search(r"#+ Your own tokenization\n.*?```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    lines = block.replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if shlex.split(line, comments=True)]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The folder in which all commands ran, and the output of each."""
    folder = tmp_path_factory.mktemp("own")
    for name in ("text", "pairs"):
        (folder / name).mkdir()
    for name, count in (("train", 300), ("valid", 37)):
        lines = [split(line) for line in sentences(count, len(name))]
        lines = [x for i, line in enumerate(lines) for x in ([line, ""] if i % 7 == 6 else [line])]
        (folder / "text" / f"{name}.bpe").write_text("\n".join(lines) + "\n")
    for name, count in (("train", 200), ("valid", 37), ("test", 20)):
        lines = [*sentences(count, 10 + len(name))]
        short = [" ".join(line.split()[:4]) for line in lines]
        for side, texts in (("src", lines), ("tgt", short)):
            (folder / "pairs" / f"{name}.{side}").write_text("".join(f"{split(text)}\n" for text in texts))
    outputs = []
    for program, *words in readme_commands():
        output = None
        if ">" in words:
            *words, _, output = words
        if "--user-dir" in words:
            assert words[words.index("--user-dir") + 1] == "fairseq_pmlm"
            words[words.index("--user-dir") + 1] = USER_DIR[1]
        if program == "fairseq-train":
            words += SHORT[words[words.index("--task") + 1]]
        words += {"fairseq-generate": ["--cpu"], "fairseq-preprocess": ["--workers", 2]}.get(program, [])
        ran = command(program.removeprefix("fairseq-"), *words, cwd=folder)
        outputs.append((program, ran.stdout))
        if output:
            (folder / output).write_text(ran.stdout)
    return folder, outputs


def test_every_command_runs(done):
    folder, outputs = done
    assert [program for program, _ in outputs] == [
        "fairseq-preprocess", "fairseq-train", "fairseq-preprocess", "fairseq-train", "fairseq-generate",
    ]  # fmt: skip
    found = hypotheses((folder / "generate.txt").read_text())
    assert sorted(found) == list(range(20))
    # tokens are put together again, in references as in hypotheses
    assert not any("@@" in text for nbest in found.values() for _, text in nbest)
    references = re.findall(r"^T-(\d+)\t(.*)$", (folder / "generate.txt").read_text(), re.MULTILINE)
    assert [text for _, text in sorted(references, key=lambda pair: int(pair[0]))] == [
        " ".join(line.split()[:4]) for line in sentences(20, 14)
    ]


def test_mask_and_pseudo_have_the_same_numbers_all_along(done, monkeypatch):
    folder, outputs = done
    own = (folder / "data-bin/own/dict.txt").read_bytes()
    assert b"<mask>" not in own
    assert b"<pseudo>" not in own
    for side in ("src", "tgt"):
        assert (folder / f"data-bin/own-pairs/dict.{side}.txt").read_bytes() == own
    monkeypatch.chdir(folder)  # checkpoints name their data as the commands do
    paths = [f"checkpoints/{name}/checkpoint_best.pt" for name in ("own", "own-pairs")]
    dictionaries = [load(path)[1].source_dictionary for path in paths]
    assert dictionaries[0].symbols == dictionaries[1].symbols
    last = len(own.splitlines()) + 4
    assert [dictionaries[0].index(symbol) for symbol in ("<mask>", "<pseudo>")] == [last, last + 1]
    logs = [out for program, out in outputs if program == "fairseq-train"]
    for log, name in zip(logs, ("dict.txt", "dict.src.txt"), strict=True):
        for symbol in ("<mask>", "<pseudo>"):
            assert f"{name} lacks {symbol}: added after its last symbol" in log


def preprocess_pairs(folder, name, *options):
    command(
        "preprocess", "--source-lang", "src", "--target-lang", "tgt", "--trainpref", "pairs/train",
        "--validpref", "pairs/valid", "--destdir", name, *options, cwd=folder,
    )  # fmt: skip
    finetune = next(words for words in readme_commands() if "pmlm_seq2seq" in words)[2:]
    finetune[finetune.index("fairseq_pmlm")] = USER_DIR[1]
    return [name, *finetune, *SHORT["pmlm_seq2seq"], "--max-update", 2, "--save-dir", f"{name}-model"]


def test_other_dictionaries_are_refused(done):
    folder, _ = done
    options = preprocess_pairs(folder, "two")
    refused(
        command("train", *options, cwd=folder, check=False),
        "dict.src.txt and dict.tgt.txt in", "two differ; one stack for both sides needs one dictionary",
        "--srcdict dict.txt --tgtdict dict.txt",
    )  # fmt: skip
    options = preprocess_pairs(folder, "joined", "--joined-dictionary")
    refused(command("train", *options, cwd=folder, check=False), "dictionary", "dict.txt")
    place = options.index("--finetune-from-model")
    command("train", *options[:place], *options[place + 2 :], cwd=folder)  # from scratch, it is as good as any
