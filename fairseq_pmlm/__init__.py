"""Pseudo-masked language models (UniLMv2, arXiv 2002.12804) for fairseq: what ``--user-dir fairseq_pmlm`` imports.

Importing the package mends fairseq for current Python and torch (:mod:`~fairseq_pmlm.fairseq_patches.compat`, first)
and registers the tasks, criterions, models, tokenizers and scorers. Importing it twice, or in spawned workers, is
harmless.
"""

from ._version import __version__  # noqa: F401
from .fairseq_patches import compat
from .utils import errors

errors.install_excepthook()
compat.apply()

from .criterions import pmlm as _pmlm_criterion  # noqa: E402, F401
from .criterions import pmlm_seq2seq as _pmlm_seq2seq_criterion  # noqa: E402, F401
from .criterions import pmlm_squad as _pmlm_squad_criterion  # noqa: E402, F401
from .criterions import sentence_prediction as _sentence_prediction_criterion  # noqa: E402, F401
from .model import pmlm as _pmlm_model  # noqa: E402, F401
from .optim import layer_decay as _layer_decay  # noqa: E402, F401
from .scoring import fairseq_scorer as _fairseq_scorer  # noqa: E402, F401
from .tasks import pmlm as _pmlm_task  # noqa: E402, F401
from .tasks import pmlm_seq2seq as _pmlm_seq2seq_task  # noqa: E402, F401
from .tasks import pmlm_squad as _pmlm_squad_task  # noqa: E402, F401
from .tokenizers import byte_bpe as _byte_bpe  # noqa: E402, F401
from .tokenizers import sentencepiece as _sentencepiece  # noqa: E402, F401
from .tokenizers import wordpiece as _wordpiece  # noqa: E402, F401
