"""resuming: the place in an epoch, meters and scores at its end, and trainings that are complete."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fairseq import checkpoint_utils
from fairseq.data import FairseqDataset
from fairseq.data.iterators import EpochBatchIterator
from fairseq.dataclass.configs import CheckpointConfig
from fairseq.logging import meters, metrics
from fairseq.optim import FairseqOptimizer
from fairseq.optim.lr_scheduler.reduce_lr_on_plateau import (
    ReduceLROnPlateauLRSchedule,
    ReduceLROnPlateauLRScheduleConfig,
)
from fairseq.trainer import Trainer
from omegaconf import OmegaConf

from fairseq_pmlm.checkpoints.safe_load import torch_load
from fairseq_pmlm.fairseq_patches import resuming, training_state
from fairseq_pmlm.fairseq_patches.replace import ORIGINALS
from fairseq_pmlm.utils.errors import PMLMError


class Numbers(FairseqDataset):
    def __len__(self):
        return 100

    def __getitem__(self, index):
        return int(index)

    def collater(self, samples):
        return samples


def iterator(shards=1, shard=0, batch=1, count=100, **options):
    batches = [list(range(i, min(i + batch, count))) for i in range(0, count, batch)]
    dataset = Numbers()
    options = {"collate_fn": dataset.collater, "batch_sampler": batches, "seed": 3, **options}
    return EpochBatchIterator(dataset, num_shards=shards, shard_id=shard, **options)


def consume(shards, batches, **options):
    """What *shards* processes see in *batches* batches each, and the state of the first."""
    iterators = [iterator(shards, shard, **options) for shard in range(shards)]
    seen = []
    for one in iterators:
        epoch = one.next_epoch_itr()
        seen += [x for _ in range(batches) for x in next(epoch)]
    return seen, iterators[0].state_dict()


def rest(shards, state, **options):
    seen = []
    for shard in range(shards):
        one = iterator(shards, shard, **options)
        one.load_state_dict(state)
        seen += [x for batch in one.next_epoch_itr() for x in batch]
    return seen


@pytest.mark.parametrize("before", [1, 2, 3, 4])
@pytest.mark.parametrize("after", [1, 2, 3, 4])
def test_any_number_of_processes_goes_on_where_others_stopped(before, after, caplog):
    for batches in (1, 6, 12):
        seen, state = consume(before, batches)
        assert len(seen) == before * batches
        more = rest(after, state)
        again = before * batches % after
        assert len(seen) + len(more) == 100 + again
        assert set(seen) | set(more) == set(range(100))
        if before != after:
            assert (f"{again} batches of the epoch are trained again" in caplog.text) == bool(again)
        caplog.clear()


def test_without_the_patch_samples_are_lost():
    seen, state = consume(1, 12)
    two = [iterator(2, shard) for shard in (0, 1)]
    for one in two:
        ORIGINALS["EpochBatchIterator.load_state_dict"](one, state)
        seen += [x for batch in one.next_epoch_itr() for x in batch]
    assert len(set(seen)) == 88


def test_other_batches_are_refused():
    _, state = consume(1, 5)
    with pytest.raises(PMLMError, match="an epoch of 100 batches for 1 processes, and now there are 50 for 1"):
        rest(1, state, batch=2)
    with pytest.raises(PMLMError, match="samples would be lost or repeated"):
        rest(2, state, grouped_shuffling=True)
    # as many, but others, or in another order
    swapped = [[1], [0], *([i] for i in range(2, 100))]
    for other in ({"seed": 4}, {"batch_sampler": swapped}):
        with pytest.raises(PMLMError, match="an epoch of as many batches, 100, with other samples or in another order"):
            rest(1, state, **other)
    arrays = [np.array([i], np.int32) for i in range(100)]
    assert len(rest(1, state, batch_sampler=arrays)) == 95  # the same, whatever holds the numbers
    # at an epoch's start there is nothing to lose, and older checkpoints do not say
    for harmless in ({**state, "iterations_in_epoch": 0}, {k: state[k] for k in ("epoch", "shuffle")}):
        assert len(rest(1, harmless, batch=2)) == 100


@pytest.fixture
def clean_metrics():
    metrics.reset()
    yield
    metrics.reset()


def options(**changes):
    return OmegaConf.merge(OmegaConf.structured(CheckpointConfig), changes)


def test_meters_span_epochs(clean_metrics):
    with metrics.aggregate("train"), metrics.aggregate("train_inner"):
        metrics.log_scalar("loss", 2.0, 3)
        metrics.log_speed("ups", 1.0)
    state = {"metrics": metrics.state_dict(), "train_iterator": {"epoch": 2, "iterations_in_epoch": 0}}
    metrics.reset()
    steps = []
    trainer = SimpleNamespace(lr_step=lambda *args: steps.append(args))
    resuming.restore_between_epochs(options(), trainer, {**state, "val_loss": 1.25})
    assert metrics.get_meter("train_inner", "loss").avg == 2.0
    assert metrics.get_meter("train", "loss").count == 0  # its epoch is over
    assert metrics.get_meter("default", "ups").i == 0
    assert isinstance(metrics.get_meter("default", "ups"), meters.TimeMeter)
    assert steps == [(1, 1.25), (2,)]
    for changes in ({"reset_meters": True}, {"reset_optimizer": True}, {"reset_dataloader": True}):
        metrics.reset()
        resuming.restore_between_epochs(options(**changes), None, state)
        assert metrics.get_meters("train_inner") is None
    within = {**state, "train_iterator": {"epoch": 2, "iterations_in_epoch": 3}}
    resuming.restore_between_epochs(options(), None, within)  # where fairseq does it
    assert metrics.get_meters("train_inner") is None


def trainer_after(updates, max_update=0, max_epoch=0, patience=-1):
    cfg = {"optimization": {"max_update": max_update, "max_epoch": max_epoch}, "checkpoint": {"patience": patience}}
    return SimpleNamespace(cfg=OmegaConf.create(cfg), get_num_updates=lambda: updates)


@pytest.mark.parametrize(
    ("limits", "epoch", "complete"),
    [
        ({}, 5, False),
        ({"max_update": 101}, 5, False),
        ({"max_update": 100}, 5, True),
        ({"max_update": 60}, 5, True),
        ({"max_epoch": 5}, 5, False),
        ({"max_epoch": 4}, 5, True),
        ({"patience": 3}, 5, False),
        ({"patience": 2}, 5, True),
    ],
)
def test_what_is_complete_is_not_trained(limits, epoch, complete, monkeypatch):
    monkeypatch.setattr(training_state, "early_stopping", lambda: None)
    training_state.early_stopping.best = None
    resuming.restore_patience(options(), {"patience": [1.5, 2]})
    assert (training_state.early_stopping.best, training_state.early_stopping.num_runs) == (1.5, 2)
    trainer = trainer_after(100, **limits)
    training_state.begin()
    resuming.stop_if_complete(trainer, SimpleNamespace(next_epoch_idx=epoch))
    assert (trainer.cfg.optimization.max_epoch == -1) == complete
    assert training_state.trained_nothing() != complete
    training_state.update()
    assert not training_state.trained_nothing()


def test_patience_is_saved(monkeypatch, tmp_path):
    monkeypatch.setattr(training_state, "early_stopping", SimpleNamespace(best=1.5, num_runs=2))
    trainer = SimpleNamespace(
        should_save_checkpoint_on_current_rank=True, state_dict=lambda: {"extra_state": {"epoch": 1}},
        cfg=OmegaConf.create({"checkpoint": {"write_checkpoints_asynchronously": False}}),
    )  # fmt: skip
    Trainer.save_checkpoint(trainer, str(tmp_path / "model.pt"), {"val_loss": 3.0})
    saved = torch_load(tmp_path / "model.pt")["extra_state"]
    assert saved == {"epoch": 1, "val_loss": 3.0, "patience": [1.5, 2]}


def test_a_checkpoint_that_was_asked_for_and_is_not_there(monkeypatch, tmp_path):
    monkeypatch.setattr(training_state, "early_stopping", lambda: None)
    trainer = SimpleNamespace(data_parallel_world_size=1, data_parallel_rank=0, checkpoint_suffix="", is_fsdp=False)
    cfg = options(restore_file=str(tmp_path / "none.pt"), no_save=True)
    with pytest.raises(PMLMError, match=r"none\.pt \(--restore-file\) does not exist"):
        checkpoint_utils.load_checkpoint(cfg, trainer)  # fairseq starts with the first update


class Sgd(FairseqOptimizer):
    def __init__(self):
        self._optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], 0.1)


def plateau():
    cfg = ReduceLROnPlateauLRScheduleConfig(
        lr_patience=3, lr_shrink=0.5, lr=[0.1], maximize_best_checkpoint_metric=False
    )
    return ReduceLROnPlateauLRSchedule(cfg, Sgd())


def test_a_plateau_goes_on_counting():
    losses = [1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0]
    whole = plateau()
    expected = [whole.step(epoch, loss) for epoch, loss in enumerate(losses, 1)]
    assert len(np.unique(expected)) == 3
    one = plateau()
    found = [one.step(epoch, loss) for epoch, loss in enumerate(losses[:3], 1)]
    two = plateau()
    two.load_state_dict(one.state_dict())
    found += [two.step(epoch, loss) for epoch, loss in enumerate(losses[3:], 4)]
    assert found == expected
