"""Going on with a training as if it had never stopped: what fairseq forgets, or takes for something else.

fairseq stores most of what an update depends on; its random numbers are seeded anew for each. What it loses: meters and
validation scores where an epoch ends, ``--patience``, that the training was complete, and how many samples the place in
an epoch stands for when the processes or the batches have become others.
"""

import copy
import logging
import os
import zlib

import numpy as np

from ..utils.errors import PMLMError
from . import checkpoint_files, distributed, training_state
from .replace import Patch

logger = logging.getLogger(__name__)


def resume_exactly() -> list[Patch]:
    """Go on from the newest whole checkpoint, with all that an uninterrupted training would have there.

    Why: see the functions that are called.
    """
    from fairseq import checkpoint_utils
    from fairseq.data.iterators import EpochBatchIterator
    from fairseq.optim.lr_scheduler.reduce_lr_on_plateau import ReduceLROnPlateauLRSchedule
    from fairseq.trainer import Trainer

    def wrap_load(original):
        def patched(cfg, trainer, **passthrough_args):
            training_state.begin()
            distributed.check_joined(trainer)
            if trainer.data_parallel_rank == 0 and not cfg.no_save:
                checkpoint_files.hold(cfg.save_dir, trainer.checkpoint_suffix)
            if training_state.early_stopping is None:  # fairseq-hydra-train has called its main before we were there
                from fairseq_cli import train

                training_state.early_stopping = train.should_stop_early
            cfg = which_checkpoint(cfg, trainer)
            extra_state, epoch_itr = original(cfg, trainer, **passthrough_args)
            if extra_state is not None:
                restore_between_epochs(cfg, trainer, extra_state)
                restore_patience(cfg, extra_state)
                stop_if_complete(trainer, epoch_itr)
            return extra_state, epoch_itr

        return patched

    def wrap_save(original):
        def patched(self, filename, extra_state):
            early = training_state.early_stopping
            if hasattr(early, "best"):
                extra_state = {**extra_state, "patience": [early.best, early.num_runs]}
            return original(self, filename, extra_state)

        return patched

    def wrap_place(original):
        def patched(self):
            place = {"num_shards": self.num_shards, "batches": len(self.frozen_batches), "order": order(self)}
            return {**original(self), **place}

        return patched

    def wrap_go_to(original):
        def patched(self, state_dict):
            return original(self, place_in_epoch(self, state_dict))

        return patched

    def wrap_plateau(original):
        # of the scheduler's own counts, fairseq stores none
        def patched(self):
            return {**original(self), "num_bad_epochs": self.lr_scheduler.num_bad_epochs}

        return patched

    def wrap_load_plateau(original):
        def patched(self, state_dict):
            original(self, state_dict)
            self.lr_scheduler.num_bad_epochs = state_dict.get("num_bad_epochs", 0)

        return patched

    plateau = ReduceLROnPlateauLRSchedule
    return [
        Patch(checkpoint_utils, "load_checkpoint", ["cfg.restore_file ==", 'extra_state["train_iterator"]'], wrap_load),
        Patch(Trainer, "save_checkpoint", ['state_dict["extra_state"].update(extra_state)'], wrap_save),
        Patch(EpochBatchIterator, "state_dict", ['"iterations_in_epoch": iter_in_epoch,'], wrap_place),
        Patch(EpochBatchIterator, "load_state_dict", ['state_dict.get("iterations_in_epoch", 0)'], wrap_go_to),
        Patch(plateau, "state_dict", ['"last_epoch": self.lr_scheduler.last_epoch,'], wrap_plateau),
        Patch(plateau, "load_state_dict", ['self.lr_scheduler.best = state_dict["best"]'], wrap_load_plateau),
    ]


def which_checkpoint(cfg, trainer):
    """fairseq's checkpoint options, with ``--restore-file`` where ``checkpoint_last.pt`` cannot be gone on from.

    Why: fairseq stops at a checkpoint that was cut short, and where ``checkpoint_last.pt`` or ``--restore-file`` is
    missing, it starts anew in the midst of a run's checkpoints. The first process looks, for all of them.

    Raises:
        PMLMError: no checkpoint that should be there is, or is whole, or this machine does not see it.
    """
    from fairseq.distributed import utils as distributed_utils
    from fairseq.file_io import PathManager

    suffix = trainer.checkpoint_suffix
    if cfg.restore_file != "checkpoint_last.pt":
        path = cfg.restore_file.replace(".pt", suffix + ".pt")
        if not PathManager.isfile(path):
            raise PMLMError(f"checkpoint {path} (--restore-file) does not exist")
        return cfg
    if PathManager.path_requires_pathmanager(cfg.save_dir) or (trainer.is_fsdp and suffix):
        return cfg  # no files; or each process has one of its own
    found, problem = None, None
    if trainer.data_parallel_rank == 0:
        try:
            if not cfg.no_save:
                checkpoint_files.remove_unfinished(cfg.save_dir, suffix)
            found = checkpoint_files.last_whole(cfg.save_dir, suffix, cfg.finetune_from_model or cfg.continue_once)
        except PMLMError as error:
            problem = str(error)
    last = os.path.join(cfg.save_dir, f"checkpoint_last{suffix}.pt")
    there = os.path.isfile(last)
    if trainer.data_parallel_world_size > 1:
        mine = there
        found, problem, there = distributed_utils.broadcast_object(
            [tuple(found) if found else None, problem, there], 0, trainer.data_parallel_process_group, trainer.device
        )
        found = checkpoint_files.Found(*found) if found else None
        if problem is None and not (os.path.isfile(found.path) if found else mine or not there):
            raise PMLMError(
                f"process {trainer.data_parallel_rank} does not see {found.path if found else last}, from which "
                "process 0 goes on; --save-dir must be on a disk that all machines share"
            )
    if problem is not None:
        raise PMLMError(problem)
    if found is None:
        if not there and cfg.finetune_from_model and not PathManager.exists(cfg.finetune_from_model):
            raise PMLMError(f"checkpoint {cfg.finetune_from_model} does not exist")
        return cfg
    logger.warning(f"checkpoint {last} {found.reason}: going on from {found.path}, after {found.updates:,} updates")
    cfg = copy.deepcopy(cfg)
    cfg.restore_file = found.path.replace(suffix + ".pt", ".pt")
    cfg.finetune_from_model = cfg.continue_once = None
    return cfg


def restore_between_epochs(cfg, trainer, extra_state) -> None:
    """Take up what a checkpoint from the end of an epoch says of the time before it.

    Why: fairseq saves it before the epoch is quite over. Going on, it leaves out all meters, although those of
    ``--log-interval`` span epochs, and that the learning rate was to be told the validation loss.
    """
    from fairseq.logging import meters, metrics

    place = extra_state["train_iterator"]
    if place["iterations_in_epoch"] or cfg.reset_meters or cfg.reset_dataloader or cfg.reset_optimizer:
        return
    if "metrics" in extra_state:
        metrics.load_state_dict(extra_state["metrics"])
        metrics.reset_meters("train")
        for meter in (metrics.get_meters("default") or {}).values():
            if isinstance(meter, meters.TimeMeter):
                meter.reset()
    if not cfg.reset_lr_scheduler and extra_state.get("val_loss") is not None:
        trainer.lr_step(place["epoch"] - 1, extra_state["val_loss"])
        trainer.lr_step(place["epoch"])


def restore_patience(cfg, extra_state) -> None:
    """Go on counting validations without an improvement. Why: fairseq starts at 0 with each restart."""
    early = training_state.early_stopping
    if early is not None and "patience" in extra_state and not (cfg.reset_optimizer or cfg.reset_meters):
        early.best, early.num_runs = extra_state["patience"]


def stop_if_complete(trainer, epoch_itr) -> None:
    """Train no further where there is nothing left to train.

    Why: fairseq looks at ``--max-update`` and ``--patience`` after an update only, so that each further start of a
    training that is complete makes one more.
    """
    limit, updates = trainer.cfg.optimization, trainer.get_num_updates()
    patience = trainer.cfg.checkpoint.patience
    if limit.max_update and updates >= limit.max_update:
        reason = f"--max-update {limit.max_update}"
    elif limit.max_epoch and epoch_itr.next_epoch_idx > limit.max_epoch:
        reason = f"--max-epoch {limit.max_epoch}"
    elif 0 < patience <= getattr(training_state.early_stopping, "num_runs", 0):
        reason = f"--patience {patience}"
    else:
        return
    logger.info(f"nothing left to train: {updates:,} updates are made ({reason})")
    training_state.complete()
    limit.max_epoch = -1  # which ends fairseq's loop over the epochs before the first


def order(iterator) -> int:
    """A checksum of what is in the batches of an epoch, and of the seed of their order."""
    batches, found = getattr(iterator, "pmlm_order", (None, 0))
    if batches is not iterator.frozen_batches:
        batches, found = iterator.frozen_batches, zlib.crc32(f"{iterator.seed} ".encode())
        for batch in batches:
            found = zlib.crc32(np.append(np.asarray(batch, np.int64), -1).tobytes(), found)
        iterator.pmlm_order = batches, found  # a training saves more often than its batches become others
    return found


def place_in_epoch(iterator, state: dict) -> dict:
    """The place in an epoch, for as many processes as there are now.

    Why: fairseq counts batches of one process; with half of the processes the same number is half of the samples. And
    with other batches, it stands for other samples.

    Raises:
        PMLMError: the epoch's batches are others than those that the checkpoint counts.
    """
    done, before = state.get("iterations_in_epoch", 0), state.get("num_shards", iterator.num_shards)
    if not done or "batches" not in state:
        return state
    now, batches = iterator.num_shards, len(iterator.frozen_batches)
    if batches != state["batches"] or (now != before and iterator.grouped_shuffling):
        raise PMLMError(
            f"the checkpoint is within an epoch of {state['batches']:,} batches for {before} processes, and now there "
            f"are {batches:,} for {now}: samples would be lost or repeated; give the same data, --max-tokens and "
            "--batch-size, or --reset-dataloader to begin with the first epoch again"
        )
    if state.get("order", order(iterator)) != order(iterator):
        raise PMLMError(
            f"the checkpoint is within an epoch of as many batches, {batches:,}, with other samples or in another "
            "order: samples would be lost or repeated; give the same data, --seed, --max-tokens and --batch-size, or "
            "--reset-dataloader to begin with the first epoch again"
        )
    if now == before:
        return state
    again = done * before % now
    logger.info(f"{done * before:,} batches of the epoch were made by {before} processes; now there are {now}")
    if again:
        logger.warning(f"{again} batches of the epoch are trained again: {before} processes have made {done} each")
    return {**state, "iterations_in_epoch": done * before // now}
