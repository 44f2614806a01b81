"""Checkpoints of version 0.1.0 load, resume and generate as they did then; see old_checkpoints/README.md."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from commands import USER_DIR, command, hypotheses, logged

from fairseq_pmlm import PMLMModel

OLD = Path(__file__).parent / "old_checkpoints"
EXPECTED = json.loads((OLD / "expected.json").read_text())
DATA = {"pretraining": "text", "seq2seq": "pairs", "classification": "classes", "squad": "squad"}
TRAINING = [
    *("--arch", "pmlm_tiny", "--encoder-layers", 2, "--encoder-embed-dim", 24, "--encoder-ffn-embed-dim", 48),
    *("--encoder-attention-heads", 2, "--max-positions", 64, "--optimizer", "adam", "--lr", 0.003),
    *("--lr-scheduler", "polynomial_decay", "--total-num-update", 5000, "--warmup-updates", 100, "--seed", 3, "--cpu"),
    *("--log-format", "json", "--log-interval", 1, "--no-epoch-checkpoints", "--disable-validation"),
]
RELATIVE = (
    "--dropout 0.02 --attention-dropout 0.05 --relative-positions --relative-position-slope 0.5 "
    "--relative-position-bins 8 --relative-position-max-distance 16"
)
OPTIONS = {
    "pretraining": f"--task pmlm --criterion pmlm --tokens-per-sample 32 --max-tokens 500 {RELATIVE}",
    "seq2seq": "--task pmlm_seq2seq --criterion pmlm_seq2seq --batch-size 6 --target-mask-prob 0.3 "
    f"--max-source-positions 44 --max-target-positions 20 {RELATIVE}",
    "classification": "--task sentence_prediction --criterion pmlm_sentence_prediction --metrics accuracy,f1 "
    "--num-classes 2 --init-token 0 --batch-size 6",
    "squad": "--task pmlm_squad --criterion pmlm_squad --batch-size 6",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The data directories as they were: with dict.txt and the tokenizer in each."""
    folder = tmp_path_factory.mktemp("old") / "data"
    shutil.copytree(OLD / "data", folder)
    for name in DATA.values():
        for file in ("dict.txt", "sentencepiece.model"):
            shutil.copy(OLD / file, folder / name / file)
    for name in ("pairs/dict.src.txt", "pairs/dict.tgt.txt", "classes/input0/dict.txt"):
        shutil.copy(OLD / "dict.txt", folder / name)
    return folder


def load(name, data):
    torch.set_num_threads(1)
    return PMLMModel.from_pretrained(str(OLD), f"{name}.pt", str(data / DATA[name]))


@pytest.mark.parametrize("name", DATA)
def test_features(name, data):
    model = load(name, data)
    features = model.extract_features(model.encode(EXPECTED["sentences"][0]))[0, :, :3].flatten()
    assert features.tolist() == pytest.approx(EXPECTED["features"][name], abs=2e-4)


def test_filled_masks(data):
    found = load("pretraining", data).fill_mask("the old <mask> saw the river .", topk=3)
    assert [(text, symbol) for text, _, symbol in found] == [
        (text, symbol) for text, _, symbol in EXPECTED["fill_mask"]
    ]
    assert [p for _, p, _ in found] == pytest.approx([p for _, p, _ in EXPECTED["fill_mask"]], abs=1e-4)


def test_classes(data):
    model = load("classification", data)
    assert model.find_head(EXPECTED["head"]).labels == EXPECTED["labels"]
    logits = model.predict_texts(EXPECTED["head"], EXPECTED["sentences"])
    torch.testing.assert_close(logits, torch.tensor(EXPECTED["logits"]), atol=1e-3, rtol=0)


@pytest.mark.parametrize(("options", "texts"), EXPECTED["generate"])
def test_generated(options, texts, data):
    assert load("seq2seq", data).generate(EXPECTED["sources"], **options) == texts


@pytest.mark.slow
def test_fairseq_generate(data):
    options = [*USER_DIR, "--task", "pmlm_seq2seq", "--path", OLD / "seq2seq.pt", "--cpu"]
    done = command("generate", data / "pairs", *options, "--beam", 4, "--nbest", 2, "--gen-subset", "test")
    found = hypotheses(done.stdout)
    for number, score, text in EXPECTED["fairseq_generate"]:
        assert (pytest.approx(score, abs=1e-4), text) in found[number]


@pytest.mark.slow
@pytest.mark.parametrize("name", DATA)
def test_resumed(name, data, tmp_path):
    """The next updates, in the middle of the epoch, have the losses and gradient norms that they had."""
    shutil.copy(OLD / f"{name}.pt", tmp_path / "checkpoint_last.pt")
    expected = EXPECTED["resumed"][name]
    options = [*USER_DIR, *OPTIONS[name].split(), *TRAINING, "--max-update", expected[-1][0], "--save-dir", tmp_path]
    done = command("train", data / DATA[name], *options)
    found = {int(log["num_updates"]): log for log in logged(done.stdout, "train_inner")}
    assert len(expected) == len(found) > 10
    for update, loss, norm in expected:
        assert float(found[update]["loss"]) == pytest.approx(loss, abs=0.003)
        assert float(found[update]["gnorm"]) == pytest.approx(norm, abs=0.01, rel=0.01)
