"""What the tasks share: the dictionary with its two extra symbols, the tokenizer, and the check of sizes."""

import logging
import os
import struct
from dataclasses import dataclass, field

from fairseq.data import Dictionary, data_utils
from fairseq.dataclass import FairseqDataclass
from fairseq.tasks import FairseqTask
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..checkpoints import context
from ..data import indexed
from ..model.config import ARCHITECTURES
from ..model.pmlm import PMLM
from ..tokenizers import files as tokenizer_files
from ..tokenizers.dictionary import add_extra_symbols, find_dictionary
from ..utils.errors import PMLMError, describe, first_line
from .encoders import ENCODERS

logger = logging.getLogger(__name__)


class MissingDataError(PMLMError, FileNotFoundError):
    """No binarized file of that name; in places, fairseq itself catches FileNotFoundError."""


@dataclass
class PMLMBaseConfig(FairseqDataclass):
    """Options of all tasks."""

    nonfinite_updates: int = field(
        default=0,
        metadata={
            "help": "leave out updates whose gradients are NaN or infinite, so many in a row; the next one stops the "
            "run (0: the first)"
        },
    )


class PMLMBaseTask(FairseqTask):
    """One dictionary for everything; examples are laid out in slots."""

    slots_help = "what the Transformer holds, not only tokens of text"

    def __init__(self, cfg, dictionary):
        super().__init__(cfg)
        self.dictionary = dictionary

    def check_corruption(self) -> None:
        """Refuse values of --leave-unmasked-prob and --random-token-prob that are not probabilities."""
        leave, random = self.cfg.leave_unmasked_prob, self.cfg.random_token_prob
        if min(leave, random) < 0 or leave + random > 1:
            raise PMLMError(
                f"--leave-unmasked-prob {leave} and --random-token-prob {random} must be 0 or more, and 1 or less "
                "together"
            )

    @property
    def source_dictionary(self):
        return self.dictionary

    @property
    def target_dictionary(self):
        return self.dictionary

    def build_model(self, cfg, from_checkpoint=False):
        """Build the model; *from_checkpoint*: to generate or validate with it, where ``--bf16`` must hold.

        Raises:
            PMLMError: it is not a PMLM, and no other model can read the batches of these tasks.
        """
        try:
            model = super().build_model(cfg, from_checkpoint)
        except OmegaConfBaseException as error:  # a value of another type, which argparse would not have let through
            where = context.current().where if from_checkpoint else "the options of the model"
            raise PMLMError(f"{where}: {first_line(error)}") from error
        if not isinstance(model, PMLM):
            raise PMLMError(f"--arch {cfg._name} is not a PMLM; give one of {', '.join(ARCHITECTURES)}")
        if from_checkpoint and self.cfg.bf16 is True:  # fairseq looks at --fp16 alone
            if self.cfg.fp16 is True:
                raise PMLMError("--fp16 and --bf16 are two types for the same parameters; give one of them")
            logger.info("parameters as bfloat16")
            model.bfloat16()
        return model

    def build_bpe(self, args):
        """The tokenizer that ``--bpe`` names, else the one in the folder of the dictionary.

        Raises:
            PMLMError: the option of ``--bpe`` names another file than the data was prepared with.
        """
        beside = tokenizer_files.find(self.cfg.data)
        name = args._name if OmegaConf.is_config(args) else args
        if name is not None and name not in ENCODERS:
            return super().build_bpe(args)
        if name is not None:
            kind, option = ENCODERS[name]
            # "in" is False where it is missing ("???")
            given = args[option] if OmegaConf.is_config(args) and option in args else None
            if given and beside and os.path.isfile(given):
                same = kind.file_name == os.path.basename(beside)
                if not same or kind.fingerprint_file(given) != kind.fingerprint_file(beside):
                    raise PMLMError(
                        f"--{option.replace('_', '-')} {given} is not the tokenizer that the data was prepared with, "
                        f"{beside}"
                    )
            if given or not beside:
                return super().build_bpe(args)
        return tokenizer_files.load(beside) if beside else None

    def load_binarized(self, prefix: str, combine: bool = False, scan: bool = True):
        """The binarized lines at *prefix* (without .bin), checked by :func:`fairseq_pmlm.data.indexed.check`.

        Args:
            prefix: of the files.
            combine: take PREFIX1, PREFIX2, ... with it.
            scan: compare every token with the dictionary. That reads the whole file, as fairseq does anyway.

        Raises:
            MissingDataError: there are none.
            PMLMError: the files are damaged.
        """
        indexed.check(prefix, len(self.dictionary) if scan else None, combine)
        try:
            dataset = data_utils.load_indexed_dataset(prefix, self.dictionary, combine=combine)
        except (ValueError, AssertionError, struct.error) as error:  # of a format that was not checked
            raise PMLMError(f"{prefix}.bin or .idx is damaged ({describe(error)}); binarize the text again") from error
        if dataset is None:
            raise MissingDataError(
                f"{prefix}.bin does not exist; is this the data directory for --task {self.cfg._name}?"
            )
        return dataset

    def get_batch_iterator(self, dataset, max_tokens=None, max_sentences=None, max_positions=None, **kwargs):
        """fairseq's iterator, over every example: what is too long was refused or cut when the data was loaded."""
        self.check_max_tokens(dataset, max_tokens)
        iterator = super().get_batch_iterator(dataset, max_tokens, max_sentences, max_positions=None, **kwargs)
        # Each epoch has a new iterator; workers that outlive theirs stall the next checkpoint for 5 seconds.
        iterator.persistent_workers = iterator.reuse_dataloader = False
        return iterator

    def check_max_tokens(self, dataset, max_tokens) -> None:
        """An example that does not fit ``--max-tokens`` is an error: fairseq would skip it in training.

        Raises:
            PMLMError: naming the option, and what would be enough.
        """
        if max_tokens is None or not len(dataset):
            return
        largest = int(dataset.num_tokens_vec(slice(None)).max())
        if largest > max_tokens:
            raise PMLMError(
                f"--max-tokens {max_tokens} is less than the largest example: {largest} slots ({self.slots_help}); "
                f"give --max-tokens {largest} or more"
            )


def load_dictionary(data: str, filename: str = "dict.txt") -> Dictionary:
    """fairseq's dictionary of the file *filename*, else dict.txt, in the first data directory.

    ``<mask>`` and ``<pseudo>`` are added where it lacks them.

    Raises:
        PMLMError: no such directory or file.
    """
    path = find_dictionary(data, filename)
    dictionary = Dictionary.load(path)
    add_extra_symbols(dictionary, path)
    return dictionary
