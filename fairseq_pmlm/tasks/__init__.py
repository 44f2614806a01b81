"""What fairseq registers. Importing this package patches fairseq first, so that all that follows finds it patched.

fairseq imports it when it is given ``--user-dir``; commands of our own that use fairseq import it by name. Importing it
twice, or in spawned workers, is harmless.
"""

from ..fairseq_patches import apply as _patches
from ..utils import errors

errors.install_excepthook()
_patches.apply()

from ..criterions import pmlm as _pmlm_criterion  # noqa: E402, F401
from ..criterions import pmlm_seq2seq as _pmlm_seq2seq_criterion  # noqa: E402, F401
from ..criterions import pmlm_squad as _pmlm_squad_criterion  # noqa: E402, F401
from ..criterions import sentence_prediction as _sentence_prediction_criterion  # noqa: E402, F401
from ..optim import layer_decay as _layer_decay  # noqa: E402, F401
from ..scoring import fairseq_scorer as _scorer  # noqa: E402, F401
from . import encoders, model, pmlm, pmlm_seq2seq, pmlm_squad  # noqa: E402, F401
