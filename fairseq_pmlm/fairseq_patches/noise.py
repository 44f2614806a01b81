"""Warnings about fairseq's own code, which its users can do nothing about."""

import logging
import warnings

# (how the message begins, category, the module that the warning is attributed to)
NOISE = [
    (r"hydra\.experimental\.initialize\(\) is no longer experimental", UserWarning, r"hydra\."),
    (r"hydra\.experimental\.compose\(\) is no longer experimental", UserWarning, r"hydra\."),
    (r"\s*The version_base parameter is not specified", UserWarning, r"hydra\."),
    (r"In 'config': Usage of deprecated keyword in package header", UserWarning, r"hydra\."),
    (r"\s*The strict flag in the compose API is deprecated", UserWarning, r"hydra\."),
    # attributed to whatever happens to be that many frames up
    (r"\s*'config' is validated against ConfigStore schema with the same name", UserWarning, ""),
    (r"`torch\.cuda\.amp\.(autocast|GradScaler)\(args\.\.\.\)` is deprecated", FutureWarning, r"fairseq\."),
    (r"'pin_memory' argument is set as true but no accelerator is found", UserWarning, r"torch\.utils\.data\."),
    (r"`broadcast_buffers` is deprecated", FutureWarning, r"fairseq"),
    # fairseq's decoder passes a bool padding mask and a float causal mask
    (r"Support for mismatched key_padding_mask and attn_mask is deprecated", UserWarning, r"torch\.nn\.functional$"),
]


def silence_deprecations() -> None:
    """Hide the deprecation warnings that every command prints about fairseq's own calls of hydra and torch.

    Why: a user can do nothing about them, and a dozen of them hide the one that matters. Filtered are these
    messages from these modules only; all other warnings show, including the same ones raised by a user's own calls
    where they can be told apart. With ``--amp`` and no GPU, torch's "Disabling" still shows: it is about the option.
    """
    for message, category, module in NOISE:
        warnings.filterwarnings("ignore", message, category, module)
    # two lines of hydra's that generate, interactive and validate show
    logging.getLogger("hydra.core.utils").setLevel(logging.INFO)
