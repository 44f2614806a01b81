"""experiments/: measures, curves and costs out of files, paired intervals, and what tables make of them."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from fairseq_pmlm.utils.errors import PMLMError

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))

from curves import read_curve
from found import FIRST, LATER, Results
from measure import main as measure_main
from paired import difference
from results import compare_losses, infilling_section, loss_section
from sst2_table import cost


def test_measures_refuse_what_makes_no_sense(tmp_path):
    path = str(tmp_path / "checkpoint.pt")
    for more, match in ((["--out", "x.npz", "--spans", "-1"], "--spans -1: give 0"), (["--out", path], "what is read")):
        with pytest.raises(PMLMError, match=match):
            measure_main([str(tmp_path), "--path", path, *more])


def test_measures_that_are_torn_are_named(tmp_path):
    (tmp_path / "ae.1").mkdir()
    np.savez_compressed(tmp_path / "ae.1/m.npz", length=np.arange(1000))
    whole = (tmp_path / "ae.1/m.npz").read_bytes()
    found = Results(tmp_path, [{"kind": "measures", "facts": {"system": "ae", "seed": 1}, "file": "ae.1/m.npz"}])
    torn = bytearray(whole)
    torn[len(whole) // 2 : len(whole) // 2 + 8] = b"\xff" * 8
    for content in (b"", whole[:-30], b"no archive", bytes(torn)):
        (tmp_path / "ae.1/m.npz").write_bytes(content)
        with pytest.raises(PMLMError, match=r"m\.npz: cannot be read: .*; remove .*/ae\.1\.measure and .*/ae\.1, "):
            found.measures("ae", 1)
    (tmp_path / "ae.1/model").mkdir()
    with pytest.raises(PMLMError, match=r"remove \S*/ae\.1\.measure, and run again"):
        found.measures("ae", 1)


def test_paired_differences():
    rng = np.random.default_rng(0)
    common = rng.normal(size=400) * 10  # what makes items hard is common to both
    second = [common + rng.normal(size=400) for _ in range(3)]
    found = difference([x + 0.5 + rng.normal(size=400) for x in second], second)
    assert found.low < 0.5 < found.high
    assert found.high - found.low < 0.6  # and far less than without pairing: 4 * 10 / 20
    assert (found.verdict(), found.verdict(less_is_better=True)) == ("better", "worse")
    assert difference(second, second) == (0, 0, 0, 3)
    noisy = difference([x + rng.normal(size=400) for x in second], second)
    assert noisy.verdict() == "not separable"
    # one seed that differs from the others moves the interval, however many items there are
    assert difference([second[0] + 9, second[1], second[2]], second).verdict() == "not separable"
    weights = np.arange(1, 401)
    assert difference([2.0 * weights], [1.0 * weights], weights).mean == pytest.approx(1)


def test_intervals_of_differences_are_those_of_the_normal_approximation():
    rng = np.random.default_rng(1)
    things = rng.integers(1, 9, 500)
    sums = rng.normal(0.3, 1, 500) * things + rng.normal(size=500)
    half = 1.96 * sums.std() / 500**0.5
    one = difference([sums], [np.zeros(500)])
    assert (one.high - one.low) / 2 == pytest.approx(half, rel=0.1)
    ratio = sums.sum() / things.sum()  # its deviation is that of what is left of each item, to first order
    half = 1.96 * (sums - ratio * things).std() / 500**0.5 / things.mean()
    weighted = difference([sums], [np.zeros(500)], things)
    assert weighted.mean == pytest.approx(ratio)
    assert (weighted.high - weighted.low) / 2 == pytest.approx(half, rel=0.1)


@pytest.mark.parametrize("seeds", [2, 3])
@pytest.mark.parametrize("between", [0.0, 0.03, 0.3])
def test_intervals_of_differences_cover_the_truth(seeds, between):
    """Items and trainings drawn anew a thousand times; trainings differ not at all, somewhat, a lot."""
    rng, truth, covered, times = np.random.default_rng(seeds), 0.3, 0, 1000
    for _ in range(times):
        things = rng.integers(1, 5, 200).astype(float)
        items = rng.standard_exponential(200) - 1  # skewed, as losses are
        trainings = truth + between * rng.normal(size=(seeds, 1))
        sums = trainings * things + (items + 0.5 * rng.normal(size=(seeds, 200))) * things**0.5
        found = difference(list(sums), list(np.zeros_like(sums)), things)
        covered += found.low <= truth <= found.high
    assert 0.92 < covered / times <= 1


def test_curves_count_what_was_trained_twice_once(tmp_path):
    def valid(updates, loss, seconds):
        row = {
            "epoch": 1,
            "valid_loss": "1",
            "valid_ae_loss": loss,
            "valid_seconds": seconds,
            "valid_num_updates": updates,
        }
        return json.dumps({key: str(value) for key, value in row.items()})

    rows = ["{'_name': None}", '{"epoch": 1, "num_updates": "50"}', valid(100, 8.5, 21.5), valid(200, 7.7, 10)]
    rows += [valid(200, 7.5, 18.25), valid(300, 7.25, 20), "not a row"]
    (tmp_path / "log").write_text("\n".join(rows) + "\n")
    assert read_curve(tmp_path / "log") == [
        {"updates": 100, "ae": 8.5, "seconds": 21.5},
        {"updates": 200, "ae": 7.5, "seconds": 39.75},
        {"updates": 300, "ae": 7.25, "seconds": 59.75},
    ]
    (tmp_path / "log").write_text("nothing\n")
    with pytest.raises(PMLMError, match="no validation"):
        read_curve(tmp_path / "log")


def test_bits_and_right_tokens_are_of_tokens_and_not_of_spans(tmp_path):
    (tmp_path / "charts").mkdir()
    lengths, method = np.arange(1, 7), "at once, [M]"
    measured = {"exact": lengths == 1, "right": lengths // 2, "bits": lengths.astype(float)}
    np.savez(tmp_path / "m.npz", length=lengths, **{f"{name}.{method}": values for name, values in measured.items()})
    found = Results(tmp_path, [{"kind": "measures", "facts": {"system": "ae", "seed": 1}, "file": "m.npz"}])
    row = next(line for line in infilling_section(found, ["ae"]) if line.startswith("| AE | at once"))
    assert row.endswith(f"| {100 / 6:.1f} / {100 * 9 / 21:.1f} | {91 / 21:.2f} |")
    measured |= {"right": lengths, "bits": lengths - 1.0 * (lengths > 2)}  # a bit less for 18 of the 20 tokens
    np.savez(tmp_path / "n.npz", length=lengths, **{f"{name}.{method}": values for name, values in measured.items()})
    rows = [
        {"kind": "measures", "facts": {"system": s, "seed": 1}, "file": f}
        for s, f in (("ae", "m.npz"), ("ae+par", "n.npz"))
    ]
    section = infilling_section(Results(tmp_path, rows), ["ae", "ae+par"])
    (row,) = (row for row in section if row.startswith(f"| AE+PAR, {method} − AE, {method} |"))
    means = [float(cell.split()[0]) for cell in row.split(" | ")[1:4]]
    assert means == [0, 100 * 11 / 20, -18 / 20]  # 20 of the 20 tokens right in place of 9


def measured(folder, system, seed, tokens, seconds, loss, steps):
    """A training and its measures: two blocks of three tokens each."""
    name = f"{system}.{seed}.npz"
    np.savez(
        folder / name, block=np.repeat([0, 1], 3), step=np.tile(steps, 2), shown=np.ones(6, bool), ae=np.full(6, loss)
    )
    facts = {"system": system, "seed": seed}
    curve = [{"updates": 1, "ae": loss, "seconds": seconds}]
    training = {"kind": "pretraining", "facts": facts, "tokens": tokens, "seconds": seconds, "curve": curve}
    return [training, {"kind": "measures", "facts": facts, "file": name}]


def test_tokens_and_minutes_are_those_of_the_seeds_that_count(tmp_path):
    rows = measured(tmp_path, "ae-longer", 1, 8e6, 60, 5.0, [1, 2, 3])
    rows += measured(tmp_path, "ae-longer", 2, 9e6, 120, 6.0, [1, 2, 3])
    rows += measured(tmp_path, "ae-longer", 3, 1e9, 9e9, 7.0, [1, 2, 3])[:1]  # not measured yet
    line = next(x for x in loss_section(Results(tmp_path, rows), ["ae-longer"]) if x.startswith("| AE, as long"))
    assert line.startswith("| AE, as long as AE+PAR takes | 2 | 8.5 | 1.50 ± 0.71 | 5.50 ± 0.71 |")


def test_losses_of_slots_that_show_a_token_are_apart(tmp_path):
    rows = measured(tmp_path, "ae", 1, 1, 1, 5.0, [1, 2, 3]) + measured(tmp_path, "ae+par", 1, 1, 1, 6.0, [1, 2, 3])
    for system, more in (("ae", 0.0), ("ae+par", 1.0)):
        shows = np.array([True, False, True] * 2)  # [M]
        losses = np.where(shows, 5.0, 3.0 + more).astype(np.float32)
        np.savez(tmp_path / f"{system}.1.npz", block=[0, 0, 0, 1, 1, 1], step=[1, 2, 3] * 2, shown=shows, ae=losses)
    section = loss_section(Results(tmp_path, rows), ["ae", "ae+par"])
    assert next(row for row in section if row.startswith("| AE+PAR |")).startswith(
        "| AE+PAR | 1 | 0.0 | 0.02 | 5.00 | 4.00 |"
    )
    assert "| AE loss, equal tokens | AE+PAR − AE | +0.000 | +1.000 | 1 | not separable |" in section


def test_losses_of_no_token_are_not_compared(tmp_path):
    rows = measured(tmp_path, "ae", 1, 1, 1, 5.0, [2, 2, 3]) + measured(tmp_path, "ae+par", 1, 1, 1, 5.5, [2, 2, 3])
    found, pair = Results(tmp_path, rows), (("ae+par", "ae"), ("ae", "ae"))
    assert compare_losses(found, *pair, LATER) == (0.5, 0.5, 0.5, 1)
    assert compare_losses(found, *pair, FIRST) is None
    rows = rows[:2] + measured(tmp_path, "ae+par", 1, 1, 1, 5.5, [1, 2, 3])
    other = np.load(tmp_path / "ae+par.1.npz")
    np.savez(tmp_path / "other.npz", **{**other, "shown": np.array([True] * 5 + [False])})
    rows[-1]["file"] = "other.npz"
    with pytest.raises(PMLMError, match=r"ae\+par and ae were measured on different texts"):
        compare_losses(Results(tmp_path, rows), *pair)


def test_costs_of_a_training_that_went_on(tmp_path):
    rows = [(217, 90, 95), (434, 30, 0), (440, 6, 0)]  # the second epoch was interrupted
    keys = ("train_num_updates", "train_train_wall", "train_wall")
    lines = [json.dumps(dict(zip(keys, map(str, row), strict=True))) for row in rows]
    (tmp_path / "log").write_text('{"loss": "1", "train_wall": "9", "num_updates": "5"}\n' + "\n".join(lines))
    assert cost(tmp_path / "log") == (440, 2.1)
    (tmp_path / "log").write_text("nothing\n")
    with pytest.raises(PMLMError, match="no end of an epoch"):
        cost(tmp_path / "log")
