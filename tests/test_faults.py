"""The short form of benchmarks/faults.py: real trainings are killed, cut and starved, and go on."""

import os
import subprocess
import sys

import pytest
from commands import ROOT

pytestmark = pytest.mark.slow


def table(*options):
    """The rows of the table: {fault: (injected, survived, lost, difference, note)}."""
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks/faults.py", *map(str, options)],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=1200,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines()[2:]]
    return {fault: cells for fault, *cells in rows}


def test_killed_cut_and_gone_on():
    found = table(
        "--rows", "kills", "writes", "truncations", "--kills", 2, "--writes", 2, "--truncations", 2, "--updates", 24
    )
    for fault in ("kills", "kills within a write", "truncations"):
        assert found[fault][:4] == ["2", "2", "0", "0"], found
        assert "DIFFER" not in found[fault][4]


def test_a_full_disk():
    found = table("--rows", "disk", "--disks", 1, "--updates", 12)["full disks"]
    if found[0] == "0":
        pytest.skip(found[4])
    assert found[:2] == ["1", "1"]


def test_several_processes_equal_one():
    found = table("--rows", "processes", "lost", "--processes", 2)
    for ddp in ("pytorch_ddp", "legacy_ddp"):
        assert found[f"2 processes, {ddp}"][:3] == ["1", "1", "0"]
    assert found["one process of 2 killed"][:2] == ["1", "1"]


def test_every_sample_once():
    assert table("--rows", "samples", "--samples", 1, 37)["every sample once"][:3] == ["24", "24", "0"]
