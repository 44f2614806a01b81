"""Makes the helpers importable, imports the extension as --user-dir does; one pre-trained and two
fine-tuned models for all tests of fairseq's commands, and one of fairseq's own translation."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent / "scripts/demo")]

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import sentencepiece  # noqa: E402
from commands import WORDS, command, finetune, pretrain, sentences  # noqa: E402
from hypothesis import settings  # noqa: E402

import fairseq_pmlm.tasks  # noqa: E402, F401

settings.register_profile("busy", deadline=None)  # a busy machine must not fail a test
settings.load_profile("busy")


@pytest.fixture(scope="session")
def work(tmp_path_factory):
    """Binarized text and pairs: 37 test pairs, which no batch multiple divides."""
    path = tmp_path_factory.mktemp("contract")
    (path / "dict.txt").write_text("".join(f"{w} 1\n" for w in [*WORDS, "<mask>", "<pseudo>"]))
    for split, count in (("train", 300), ("valid", 37)):
        lines = list(sentences(count, len(split)))
        (path / f"{split}.txt").write_text(
            "\n".join(x for i, line in enumerate(lines) for x in ([line, ""] if i % 7 == 6 else [line])) + "\n"
        )
    for split, count in (("train", 200), ("valid", 37), ("test", 37)):
        source = list(sentences(count, 10 + len(split) + len(split[0])))
        (path / f"p.{split}.src").write_text("\n".join(source) + "\n")
        (path / f"p.{split}.tgt").write_text("\n".join(" ".join(line.split()[:5]) for line in source) + "\n")
    command(
        "preprocess",
        "--only-source",
        "--srcdict",
        path / "dict.txt",
        "--trainpref",
        path / "train.txt",
        "--validpref",
        path / "valid.txt",
        "--destdir",
        path / "text",
    )
    command(
        "preprocess",
        "-s",
        "src",
        "-t",
        "tgt",
        "--srcdict",
        path / "dict.txt",
        "--tgtdict",
        path / "dict.txt",
        "--trainpref",
        path / "p.train",
        "--validpref",
        path / "p.valid",
        "--testpref",
        path / "p.test",
        "--destdir",
        path / "pairs",
    )
    return path


@pytest.fixture(scope="session")
def pretrained(work):
    done = pretrain(work, work / "pretrained")
    return work / "pretrained" / "checkpoint_last.pt", done.stdout


@pytest.fixture(scope="session")
def finetuned(work, pretrained):
    finetune(work, work / "finetuned", "--finetune-from-model", pretrained[0])
    return work / "finetuned" / "checkpoint_last.pt"


@pytest.fixture(scope="session")
def other(work, pretrained):
    finetune(work, work / "other", "--finetune-from-model", pretrained[0], "--seed", 5, updates=20)
    return work / "other" / "checkpoint_last.pt"


@pytest.fixture(scope="session")
def toy(tmp_path_factory):
    """The folder of translation.train_toy, with the training's output in train.stdout and train.stderr."""
    from translation import train_toy

    path = tmp_path_factory.mktemp("toy")
    train_toy(path)
    return path


@pytest.fixture(scope="session")
def corpus():
    """For scores: 200 hypotheses, some empty, and two lists of references that overlap with them."""
    words = ["the", "cats", "cat", "sat", "sitting", "on", "a", "mat", "dog", "ran", "home", "fast", "."]
    generator = np.random.default_rng(0)

    def text(low, high):
        return " ".join(generator.choice(words, size=generator.integers(low, high)))

    hypotheses = [text(0, 12) for _ in range(200)]
    first = [f"{hypothesis} {text(1, 8)}" for hypothesis in hypotheses]
    second = [text(1, 14) for _ in hypotheses]
    return hypotheses, first, second


@pytest.fixture(scope="session")
def spm_model(tmp_path_factory):
    """The path of a sentencepiece model of a little Korean, Chinese and English."""
    folder = tmp_path_factory.mktemp("spm")
    text = folder / "text"
    text.write_text("나는 학교에 간다\n나는 집에 간다\n我爱北京。\n我爱上海。\nthe cat sat on the mat .\n" * 20)
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(folder / "m"), vocab_size=60, hard_vocab_limit=False, minloglevel=2
    )
    return str(folder / "m.model")
