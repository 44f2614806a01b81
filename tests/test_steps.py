"""scripts/steps.sh: what is done is skipped, what was made before is kept, what others have put there stays."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run(out, text, history="a", fails=False):
    """One step that writes *text* into a file of OUT/model."""
    made = f"mkdir -p {out}/model && echo {text} >{out}/model/x" + ("; false" if fails else "")
    script = f"""
        set -euo pipefail
        OUT={out} NAME=test history={history}
        source {ROOT}/scripts/steps.sh
        make() {{ {made}; }}
        step model "The model" {out}/model make {text}
    """
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True)


def test_done_is_done(tmp_path):
    assert run(tmp_path, "one").returncode == 0
    assert "already done" in run(tmp_path, "one").stdout
    assert (tmp_path / "model" / "x").read_text() == "one\n"


def test_what_was_complete_is_kept(tmp_path):
    run(tmp_path, "one")
    done = run(tmp_path, "two")
    assert f"kept as {tmp_path}/model.previous" in done.stdout
    assert (tmp_path / "model" / "x").read_text() == "two\n"
    assert (tmp_path / "model.previous" / "x").read_text() == "one\n"
    run(tmp_path, "two", history="b")
    assert (tmp_path / "model.previous" / "x").read_text() == "two\n"


def test_what_is_not_ours_stays(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine").write_text("precious")
    done = run(tmp_path, "one")
    assert done.returncode == 2
    assert f"{tmp_path}/model is there already, and was not made by this script" in done.stderr
    assert (tmp_path / "model" / "mine").read_text() == "precious"


def test_half_done_goes_on_or_starts_afresh(tmp_path):
    assert run(tmp_path, "one", fails=True).returncode != 0
    (tmp_path / "model" / "partial").write_text("")
    run(tmp_path, "one")
    assert (tmp_path / "model" / "partial").exists()  # the same command goes on
    other = tmp_path / "other"
    other.mkdir()
    run(other, "one", fails=True)
    (other / "model" / "partial").write_text("")
    run(other, "two")
    assert not (other / "model" / "partial").exists()
