"""Warnings that fairseq_patches.noise hides, and those that it leaves."""

import warnings

import torch
from translation import noise

from fairseq_pmlm.fairseq_patches.noise import silence_deprecations


def test_training_shows_the_user_s_warnings_and_no_others(toy):
    stderr = (toy / "train.stderr").read_text()
    assert noise(stderr) == []  # nor do the patches: this is the fairseq that it expects
    assert "UserWarning: a user's own UserWarning" in stderr
    assert "FutureWarning: a user's own FutureWarning" in stderr


def test_fairseq_s_own_calls_warn_without_the_patch_only():
    # torch's warning, attributed to the module that calls
    call = compile("import torch; torch.cuda.amp.autocast(enabled=False)", "fairseq_task.py", "exec")
    for silent in (False, True):
        with warnings.catch_warnings(record=True) as seen:
            warnings.resetwarnings()
            warnings.simplefilter("always")
            if silent:
                silence_deprecations()
            exec(call, {"__name__": "fairseq.tasks.fairseq_task"})
        assert [warning.category for warning in seen] == ([] if silent else [FutureWarning])


def test_user_s_own_calls_still_warn():
    with warnings.catch_warnings(record=True) as seen:
        warnings.resetwarnings()
        warnings.simplefilter("always")
        silence_deprecations()
        torch.cuda.amp.autocast(enabled=False)  # the same call as fairseq's, from here
        warnings.warn("hydra.experimental.initialize() is no longer experimental", stacklevel=1)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
        # the same message of another category, or from another place
        text = "Support for mismatched key_padding_mask and attn_mask is deprecated. Use same type."
        warnings.warn(text, stacklevel=1)
        warnings.warn_explicit(text, FutureWarning, "functional.py", 1, module="torch.nn.functional")
        warnings.warn_explicit(text, UserWarning, "functional.py", 1, module="torch.nn.functional")
    assert [warning.category for warning in seen] == [
        FutureWarning,
        UserWarning,
        DeprecationWarning,
        UserWarning,
        FutureWarning,
    ]
