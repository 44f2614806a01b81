"""pmlm loss-by-step beside the measures of experiments/, which count the same losses in another way."""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from fairseq import checkpoint_utils
from reference import small_dictionary, small_model
from test_binarized import write

from fairseq_pmlm.cli.loss_by_step import main
from fairseq_pmlm.conversion.importing import fairseq_checkpoint
from fairseq_pmlm.model.config import PMLMConfig
from fairseq_pmlm.utils.errors import PMLMError

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))

from measure import validation_losses


def save(folder: Path, objective: str, **task) -> str:
    """A small model of random weights, trained for --task pmlm, as its checkpoint says; *task*: options to change."""
    model = small_model(True)
    fields = [field.name for field in dataclasses.fields(PMLMConfig) if field.name != "_name"]
    options = {name: getattr(model.cfg, name) for name in fields}
    options = {k: v if isinstance(v, (int, float, str, type(None))) else str(v) for k, v in options.items()}
    state = fairseq_checkpoint(options, model.state_dict(), str(folder), objective)
    state["cfg"]["task"].update(task)
    torch.save(state, folder / "model.pt")
    return str(folder / "model.pt")


def test_a_task_of_another_user_dir_is_named(tmp_path):
    path = save(tmp_path, "ae+par", _name="pmlm_of_mine")
    with pytest.raises(PMLMError, match="--user-dir nowhere: no such directory"):
        main(["data", "--path", "checkpoint", "--user-dir", "nowhere"])
    with pytest.raises(PMLMError, match="a --task that is unknown; give its --user-dir"):
        main([str(tmp_path), "--path", path])


@pytest.mark.parametrize("objective", ["ae+par", "ae", "par"])
def test_losses_by_step_are_those_of_the_experiments(objective, tmp_path, capsys):
    dictionary, rng = small_dictionary(), np.random.default_rng(0)
    dictionary.save(str(tmp_path / "dict.txt"))
    for split in ("train", "valid"):
        write(tmp_path / split, [[*rng.integers(4, 34, 20).tolist(), 2] for _ in range(40)])
    path = save(tmp_path, objective)
    main([str(tmp_path), "--path", path, "--save-json", str(tmp_path / "found.json")])
    printed = capsys.readouterr().out
    assert ("note: this checkpoint was trained with" in printed) == (objective != "ae+par")
    assert objective == "ae+par" or f"--objective {objective};" in printed

    (model,), _, task = checkpoint_utils.load_model_ensemble_and_task([path], arg_overrides={"objective": "ae+par"})
    task.load_dataset("valid")
    with torch.no_grad():
        expected = validation_losses(model.eval(), task.dataset("valid"), 7, "cpu")
    steps = json.loads((tmp_path / "found.json").read_text())["steps"]
    for row in steps:
        numbers = [int(number) for number in row["step"].split("-")] if row["step"] != "all" else [1, 99]
        first, last = numbers[0], numbers[-1]
        chosen = expected["shown"] & (expected["step"] >= first) & (expected["step"] <= last)
        assert row["tokens"] == chosen.sum() > 0
        assert row["ae"] == pytest.approx(expected["ae"][chosen].mean(), abs=1e-4)
        assert row["par"] == pytest.approx(expected["par"][chosen].mean(), abs=1e-4)
    assert len(steps) > 3
