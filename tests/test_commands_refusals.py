"""What the real commands refuse, in one line and with a status that is not 0."""

import re
from pathlib import Path

import pytest
import torch
from commands import OPTIMIZER, PRETRAIN, USER_DIR, WORDS, command, finetune, generate, hypotheses, pretrain, refused

pytestmark = pytest.mark.slow


def test_bad_options_of_pretraining(work, tmp_path):
    def run(*options):
        return pretrain(work, tmp_path / "x", *options, updates=1, check=False)

    refused(run("--objective", "mlm"), "--objective", "mlm", "ae+par")
    refused(run("--tokens-per-sample", 65), "--tokens-per-sample 65", "--max-positions 64")
    refused(run("--max-tokens", 20), "--max-tokens 20", "slots")
    refused(run("--mask-prob", 0), "--mask-prob 0")
    refused(run("--encoder-attention-heads", 3), "--encoder-attention-heads 3", "32")
    refused(run("--encoder-attention-heads", 0), "--encoder-attention-heads 0: give 1 or more")
    refused(run("--relative-positions", "--relative-position-bins", 2), "--relative-position-bins 2")
    refused(run("--arch", "roberta_base", "--max-positions", 64), "--arch roberta_base", "pmlm_base")
    refused(command("train", tmp_path, *USER_DIR, *PRETRAIN, *OPTIMIZER, "--batch-size", 8, check=False), "dict.txt")
    assert not (tmp_path / "x").exists() or not list((tmp_path / "x").glob("*.pt"))


def test_contradictions_to_the_checkpoint(work, pretrained, tmp_path):
    def run(*options, data=work):
        return finetune(data, tmp_path / "x", "--finetune-from-model", pretrained[0], *options, updates=1, check=False)

    name = "checkpoint_last.pt"
    refused(run("--encoder-attention-heads", 4), name, "--encoder-attention-heads 2", "4")
    refused(run("--layer-norm-eps", 1e-5), name, "--layer-norm-eps 1e-12", "1e-05")
    refused(run("--activation-fn", "relu"), name, "--activation-fn gelu", "relu")
    refused(run("--encoder-layers", 3), name, "another architecture", "layers.2")
    refused(run("--encoder-ffn-embed-dim", 32), name, "another architecture", "(64, 32)", "(32, 32)")
    refused(run("--relative-positions"), name, "--relative-positions False", "True")


def test_another_dictionary_of_the_same_size(work, pretrained, finetuned, tmp_path):
    words = [WORDS[1], WORDS[0], *WORDS[2:], "<mask>", "<pseudo>"]
    (tmp_path / "dict.txt").write_text("".join(f"{w} 1\n" for w in words))
    prefixes = [x for split in ("train", "valid", "test") for x in (f"--{split}pref", work / f"p.{split}")]
    command(
        "preprocess",
        "-s",
        "src",
        "-t",
        "tgt",
        "--srcdict",
        tmp_path / "dict.txt",
        "--tgtdict",
        tmp_path / "dict.txt",
        *prefixes,
        "--destdir",
        tmp_path / "pairs",
    )
    refused(
        finetune(tmp_path, tmp_path / "x", "--finetune-from-model", pretrained[0], check=False),
        "dictionary",
        "dict.txt",
    )
    done = command(
        "generate", tmp_path / "pairs", *USER_DIR, "--task", "pmlm_seq2seq", "--path", finetuned, "--cpu", check=False
    )
    refused(done, "dictionary", "dict.txt")


def test_another_tokenizer(work, pretrained, tmp_path):
    """The tokenizer file that lies beside the dictionary is compared by its bytes."""
    import shutil

    for name in ("text", "pairs"):
        shutil.copytree(work / name, tmp_path / name)
        (tmp_path / name / "vocab.txt").write_text("[CLS]\n[SEP]\n[PAD]\n[UNK]\n[MASK]\none\n")
    pretrain(tmp_path, tmp_path / "one", updates=1)
    checkpoint = tmp_path / "one" / "checkpoint_last.pt"
    finetune(tmp_path, tmp_path / "same", "--finetune-from-model", checkpoint, updates=1)
    (tmp_path / "pairs" / "vocab.txt").write_text("[CLS]\n[SEP]\n[PAD]\n[UNK]\n[MASK]\ntwo\n")
    refused(
        finetune(tmp_path, tmp_path / "x", "--finetune-from-model", checkpoint, check=False), "tokenizer", "vocab.txt"
    )


def test_pairs_beyond_the_limits(work, finetuned, tmp_path):
    limits = ["--max-source-positions", 8, "--max-target-positions", 4]
    done = finetune(work, tmp_path / "x", *limits, updates=1, check=False)
    refused(done, "of 37", "--max-source-positions 8", "--cut-source")
    done = finetune(work, tmp_path / "x", *limits, "--cut-source", "tail", updates=1, check=False)
    refused(done, "--max-target-positions 4", "--cut-target")
    done = finetune(work, tmp_path / "x", *limits, "--cut-source", "tail", "--cut-target", "head", updates=1)
    assert len(re.findall("cut to their tail", done.stdout)) == 2  # counted for train and for valid
    found = hypotheses(generate(work, tmp_path / "x" / "checkpoint_last.pt", "--batch-size", 8))  # cut as in training
    assert sorted(found) == list(range(37))
    refused(
        finetune(work, tmp_path / "y", "--max-source-positions", 60, "--max-target-positions", 10, check=False),
        "60",
        "10",
        "64",
    )


def test_broken_checkpoints(work, pretrained, finetuned, tmp_path):
    whole = pretrained[0].read_bytes()
    (tmp_path / "half.pt").write_bytes(whole[: len(whole) // 2])
    refused(finetune(work, tmp_path / "x", "--finetune-from-model", tmp_path / "half.pt", check=False), "half.pt")
    done = finetune(work, tmp_path / "x", "--finetune-from-model", tmp_path / "none.pt", check=False)
    refused(done, "none.pt", "does not exist")
    torch.save({"model": {}, "args": None, "cfg": {}, "evil": Path("/")}, tmp_path / "type.pt")
    refused(
        finetune(work, tmp_path / "x", "--finetune-from-model", tmp_path / "type.pt", check=False), "type.pt", "Path"
    )
    done = command(
        "generate",
        work / "pairs",
        *USER_DIR,
        "--task",
        "pmlm_seq2seq",
        "--path",
        tmp_path / "none.pt",
        "--cpu",
        check=False,
    )
    refused(done, "none.pt", "does not exist")


def test_alignment_is_refused(work, finetuned):
    done = command(
        "generate",
        work / "pairs",
        *USER_DIR,
        "--task",
        "pmlm_seq2seq",
        "--path",
        finetuned,
        "--print-alignment",
        "--cpu",
        check=False,
    )
    refused(done, "--print-alignment")
    options = ["--task", "pmlm_seq2seq", "--path", finetuned, "--match-source-len", "--cpu"]
    refused(command("generate", work / "pairs", *USER_DIR, *options, check=False), "--match-source-len")
