"""Numerical trouble: NaN is named and stops a run, or is left out; batches without a prediction make none."""

import math
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from commands import OPTIMIZER, PRETRAIN, USER_DIR, command, logged, refused
from fairseq.data import Dictionary, ListDataset, indexed_dataset
from fairseq.logging import metrics
from fairseq.tasks.sentence_prediction import SentencePredictionTask
from fairseq.trainer import Trainer
from reference import small_dictionary, small_model

from fairseq_pmlm.criterions.pmlm import PMLMCriterion
from fairseq_pmlm.criterions.pmlm_seq2seq import PMLMSeq2SeqCriterion
from fairseq_pmlm.data.blocks import TextBlocks
from fairseq_pmlm.data.pretraining_dataset import PMLMDataset
from fairseq_pmlm.fairseq_patches import guards
from fairseq_pmlm.utils.errors import PMLMError

BOS, PAD, EOS, UNK, MASK, PSEUDO = 0, 1, 2, 3, 34, 35


class Task:
    source_dictionary = target_dictionary = small_dictionary()


def batch(lines, objective="ae+par", **options):
    lines = [torch.tensor([*line, EOS]) for line in lines]
    text = ListDataset(lines, np.array([len(line) for line in lines]))
    data = PMLMDataset(TextBlocks(text, 40, PAD, EOS, "eos"), small_dictionary(), objective, **options)
    return data.collater([data[i] for i in range(len(data))])


def train_on(sample, relative=True):
    """Loss, sample size, log and gradients of one batch."""
    model = small_model(relative=relative).train()
    loss, size, log = PMLMCriterion(Task)(model, sample)
    loss.backward()
    return loss, size, log, [p.grad for p in model.parameters() if p.grad is not None]


def reduced(criterion, logs):
    with metrics.aggregate(new_root=True) as found:
        criterion.reduce_metrics(logs)
    return found.get_smoothed_values()


TEXTS = {
    "one token": [[7]],
    "one token each": [[7], [8], [9]],
    "all unknown": [[UNK] * 20, [UNK]],
    "nothing to mask": [[EOS], [EOS, EOS, EOS]],  # what </s> in a text becomes
    "nothing to mask in one of two": [[EOS], [7, 8, 9]],
    "special symbols": [[BOS, PAD, EOS], [MASK, PSEUDO]],
}


@pytest.mark.parametrize("objective", ["ae", "par", "ar", "ae+par", "ae+ar"])
@pytest.mark.parametrize("text", TEXTS)
def test_odd_texts_make_no_nan(text, objective):
    loss, size, log, gradients = train_on(batch(TEXTS[text], objective))
    assert torch.isfinite(loss)
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert (size == 0) == (text == "nothing to mask")
    assert (float(loss) == 0) == (size == 0)
    values = reduced(PMLMCriterion, [log])
    assert all(math.isfinite(value) for value in values.values())
    assert values["loss"] >= 0  # fairseq makes it -1 where there is none


def test_a_batch_without_predictions_does_not_count():
    logs = [train_on(batch(TEXTS[text]))[2] for text in ("nothing to mask", "all unknown")]
    assert reduced(PMLMCriterion, logs)["loss"] == pytest.approx(reduced(PMLMCriterion, logs[1:])["loss"])


def test_padding_and_slots_are_counted():
    sample = batch([[7, 8, 9, 10, 11, 12, 13], [7]])
    *_, log, _ = train_on(sample)
    tokens = sample["net_input"]["tokens"]
    assert log["nslots"] == int(tokens.ne(PAD).sum())
    assert log["nslots_padded"] == tokens.numel()
    assert reduced(PMLMCriterion, [log])["padding"] == pytest.approx(
        100 * float(tokens.eq(PAD).float().mean()), abs=0.01
    )
    criterion = PMLMCriterion(Task)
    assert all(isinstance(log[key], int) for key in ("nslots", "nslots_padded", "nmasked"))  # nothing to wait for
    assert criterion.logging_outputs_can_be_summed()


@pytest.mark.parametrize("tokens", [[EOS], [UNK, EOS], [UNK, UNK, UNK, EOS]])
def test_odd_pairs_make_no_nan(tokens):
    model = small_model(relative=True).train()
    target = torch.tensor([tokens])
    source = torch.tensor([[BOS, *tokens]])
    net_input = {"src_tokens": source, "src_lengths": torch.tensor([source.size(1)])}
    net_input["prev_output_tokens"] = target.roll(1)
    for prefix in (0, 9):  # the second leaves nothing to predict
        criterion = PMLMSeq2SeqCriterion(Task, False, 0.1, prefix)
        loss, _, log = criterion(model, {"net_input": net_input, "target": target, "ntokens": len(tokens)})
        model.zero_grad()
        loss.backward()
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
        assert all(math.isfinite(value) for value in reduced(PMLMSeq2SeqCriterion, [log]).values())


@pytest.fixture
def broken_dictionary(tmp_path):
    def load(content):
        (tmp_path / "dict.txt").write_bytes(content)
        return Dictionary.load(str(tmp_path / "dict.txt"))

    return load


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a 1\nb x\n", "line 2: not 'symbol count' as fairseq's dictionaries have it, but 'b x'"),
        (b"a 1\nb 1\na 1\n", "line 3: the symbol 'a' is already in line 1"),
        (b"a 1\n<s> 1\n", "line 2: not 'symbol count'"),
        (b"a 1\n\xff 1\n", "line 2: not UTF-8"),
    ],
)
def test_broken_lines_of_a_dictionary_are_named(content, said, broken_dictionary):
    with pytest.raises(PMLMError, match=rf"dict\.txt, {said}"):
        broken_dictionary(content)
    assert len(broken_dictionary(b"a 1\nb 1\na 1 #fairseq:overwrite\n")) == 7  # as fairseq allows


def test_tokens_that_no_dictionary_has_are_named_before_they_are_classified(tmp_path):
    (tmp_path / "input0").mkdir()
    path = str(tmp_path / "input0" / "train")
    builder = indexed_dataset.make_builder(f"{path}.bin", "mmap", vocab_size=99)
    for tokens in ([7, EOS], [8, 98, EOS]):
        builder.add_item(torch.tensor(tokens))
    builder.finalize(f"{path}.idx")
    cfg = SimpleNamespace(data=str(tmp_path), regression_target=True)
    task = SimpleNamespace(cfg=cfg, source_dictionary=small_dictionary())
    with pytest.raises(PMLMError, match=rf"{path}\.bin holds token 98, and the dictionary has"):
        SentencePredictionTask.load_dataset(task, "train")


class FakeTrainer:
    """What the patch sees of fairseq's."""

    def __init__(self, allowed):
        self.task = SimpleNamespace(cfg=SimpleNamespace(nonfinite_updates=allowed))
        self.cleared = 0

    def get_num_updates(self):
        return 6

    def zero_grad(self):
        self.cleared += 1


def test_fairseq_s_own_step_names_the_samples(caplog):
    def fail(sample):
        raise FloatingPointError("gradients are Nan/Inf")

    trainer = FakeTrainer(0)
    trainer.is_fsdp, trainer._prepare_sample, trainer._set_seed = False, fail, list
    trainer.model = trainer.criterion = SimpleNamespace(train=list)
    trainer.cfg = SimpleNamespace(ema=SimpleNamespace(store_ema=False))
    with pytest.raises(PMLMError, match="update 7: gradients are NaN or infinite; the log names its samples"):
        Trainer.train_step(trainer, [{"id": torch.tensor([4, 5])}])
    assert "samples of its batches: [[4, 5]]" in caplog.text


@pytest.mark.slow
def test_nan_is_named_and_stops_the_run_or_is_left_out(work, tmp_path):
    """A parameter that is NaN from the start makes every update fail, as a broken checkpoint would."""
    plugin = tmp_path / "broken"
    plugin.mkdir()
    (plugin / "__init__.py").write_text(BROKEN)
    size = ["--max-tokens", 600, "--max-update", 12, "--save-dir", tmp_path / "out", "--log-interval", 1]
    options = [work / "text", "--user-dir", plugin, *PRETRAIN, *OPTIMIZER, *size]
    done = command("train", *options, check=False)
    refused(done, "update 4: gradients are NaN or infinite", "crash.pt")
    ids = re.search(r"update 4: gradients are NaN or infinite; samples of its batches: \[\[([\d, ]+)\]\]", done.stdout)
    assert ids, done.stdout[-3000:]
    assert len(ids[1].split(",")) > 1
    assert re.search(r"NaN detected in output of backbone\.layers\.1\.fc1\b", done.stdout)
    assert (tmp_path / "out" / "crash.pt").exists()
    done = command("train", *options, "--nonfinite-updates", 2)
    assert done.stdout.count("gradients are NaN or infinite; samples of its batches") == 2
    assert "left out: number 2 in a row of --nonfinite-updates 2" in done.stdout
    assert [line["num_updates"] for line in logged(done.stdout, "train_inner")] == [str(i) for i in range(1, 13)]
    assert all(math.isfinite(float(line["loss"])) for line in logged(done.stdout, "train_inner"))
    options += ["--save-dir", tmp_path / "again"]
    refused(command("train", *options, "--nonfinite-updates", 1, check=False), "2 such updates in")


BROKEN = f"""
import sys
sys.path.insert(0, {str(USER_DIR[1])!r}.rsplit("/", 1)[0])
import fairseq_pmlm.tasks
import torch

# the output of one module is NaN in two updates, and in the runs of them that look for the place
from fairseq.tasks.sentence_prediction import SentencePredictionTask
from fairseq.trainer import Trainer
step = Trainer.train_step
tries = [0]

def train_step(self, samples, *args, **kwargs):
    fc1 = self.model.backbone.layers[1].fc1
    tries[0] += 1
    hook = fc1.register_forward_hook(lambda *x: x[2] * float("nan")) if tries[0] in (4, 5) else None
    try:
        return step(self, samples, *args, **kwargs)
    finally:
        if hook:
            hook.remove()

Trainer.train_step = train_step
"""


@pytest.mark.parametrize("allowed", [0, 1, 3])
def test_so_many_updates_in_a_row_are_left_out(allowed, caplog):
    outcomes = iter([])

    def original(self, samples, *args):
        kind = next(outcomes)
        if isinstance(kind, Exception):
            raise kind
        return kind

    (patch,) = guards.name_nonfinite_samples()
    assert (patch.owner, patch.name) == (Trainer, "train_step")
    patched = patch.wrap(original)
    trainer = FakeTrainer(allowed)
    nan, samples = FloatingPointError("gradients are Nan/Inf"), [{"id": torch.tensor([4, 5])}, {}]
    outcomes = iter([{}, *([nan] * allowed), {}, *([nan] * allowed), nan])
    for _ in range(2):
        assert patched(trainer, samples) == {}
        for _ in range(allowed):
            assert patched(trainer, samples) is None
    assert trainer.cleared == 2 * allowed
    with pytest.raises(PMLMError, match="update 7: gradients are NaN or infinite"):
        patched(trainer, samples)
    assert caplog.text.count("samples of its batches: [[4, 5], []]") == 2 * allowed + 1
    workers = (
        "Fatal error: gradients are inconsistent between workers.\ngrad_norm across the workers:\nrank   0 = {:.8f}\n"
    )
    outcomes = iter([FloatingPointError(workers.format(float("nan")))])
    with pytest.raises(PMLMError, match="update 7: gradients are NaN or infinite"):
        patched(FakeTrainer(0), samples)
    for other in ("Minimum loss scale reached (0.0001)", workers.format(2.5)):
        outcomes = iter([FloatingPointError(other)])
        with pytest.raises(FloatingPointError, match=other[:20]):
            patched(trainer, samples)
