"""Whole runs as a user starts them: another script than a-z, and the demo on one's own files."""

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
FAIRSEQ = ["--user-dir", str(ROOT / "fairseq_pmlm"), "--cpu"]
MODEL = ["--arch", "pmlm_tiny", "--relative-positions", "--init-std", "0.06", "--max-positions", "96"]
OPTIMIZER = [
    *("--optimizer", "adam", "--lr", "0.003", "--lr-scheduler", "polynomial_decay", "--warmup-updates", "10"),
    *("--no-epoch-checkpoints", "--batch-size", "16"),
]

WHO = ["학생", "선생님", "고양이", "아이", "의사", "농부", "가수", "친구"]
PARTICLES = ["들이", "들은", "들도", "만", "도", "에게"]
WHEN = ["오늘", "어제", "아침에", "저녁에", "주말에", "봄에"]
WHERE = ["학교에서", "집에서", "시장에서", "공원에서", "바다에서", "도서관에서"]
WHAT = ["책을", "사과를", "노래를", "편지를", "그림을", "물고기를"]
DID = ["읽", "샀", "보았", "좋아했", "찾았", "버렸"]
ENDINGS = ["다고 한다", "다", "다는 말이다", "지만 그만두었다"]


def korean(count, seed):
    """(sentence, who did what): enough structure to learn from in a few hundred updates."""
    draw = random.Random(seed)
    for _ in range(count):
        who, when, where, what, did = (draw.choice(words) for words in (WHO, WHEN, WHERE, WHAT, DID))
        who, when, did = who + draw.choice(PARTICLES), when + draw.choice(["", "도", "만"]), did + draw.choice(ENDINGS)
        yield f"{when} {who} {where} {what} {did}.", f"{who} {did}."


def run(*command, check=True):
    done = subprocess.run([str(x) for x in command], cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert not check or done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def python(script, *args, **kwargs):
    return run(sys.executable, f"scripts/{script}.py", *args, **kwargs)


def fairseq(name, *args):
    return run(sys.executable, "-m", f"fairseq_cli.{name}", *args, *FAIRSEQ)


def write_pairs(path, count, seed):
    path.write_text(
        "".join(json.dumps({"src": s, "tgt": t}, ensure_ascii=False) + "\n" for s, t in korean(count, seed))
    )


def test_korean_from_text_to_scores(tmp_path):
    lines = [s for s, _ in korean(500, 1)]
    (tmp_path / "text.txt").write_text(
        "\n".join(x for i, s in enumerate(lines) for x in ([s, ""] if i % 5 == 4 else [s]))
    )
    for split, count, seed in (("train", 400, 2), ("valid", 20, 3), ("test", 37, 4)):
        write_pairs(tmp_path / f"{split}.jsonl", count, seed)
    python("prepare_pretraining", "--text", tmp_path / "text.txt", "--vocab-size", 90, "--destdir", tmp_path / "corpus")
    files = [x for split in ("train", "valid", "test") for x in (f"--{split}", tmp_path / f"{split}.jsonl")]
    python("prepare_seq2seq", *files, "--vocab-from", tmp_path / "corpus", "--destdir", tmp_path / "pairs")
    updates = ["--max-update", "150", "--total-num-update", "150"]
    fairseq(
        *("train", tmp_path / "corpus", "--task", "pmlm", "--criterion", "pmlm", *MODEL, *OPTIMIZER, *updates),
        *("--tokens-per-sample", "48", "--sample-break-mode", "complete_doc", "--save-dir", tmp_path / "pretrained"),
    )
    updates = ["--max-update", "500", "--total-num-update", "500"]
    fairseq(
        *("train", tmp_path / "pairs", "--task", "pmlm_seq2seq", "--criterion", "pmlm_seq2seq", *MODEL, *OPTIMIZER),
        *(*updates, "--finetune-from-model", tmp_path / "pretrained" / "checkpoint_last.pt"),
        *("--save-dir", tmp_path / "finetuned"),
    )
    checkpoint = tmp_path / "finetuned" / "checkpoint_last.pt"
    done = fairseq("generate", tmp_path / "pairs", "--task", "pmlm_seq2seq", "--path", checkpoint, "--max-len-b", "30")
    (tmp_path / "generate.txt").write_text(done.stdout)
    files = ["--hyp-from-generate", tmp_path / "generate.txt", "--ref", tmp_path / "pairs" / "test.tgt.txt"]
    done = python("score", "--metric", "rouge", *files, check=False)
    assert done.returncode != 0  # rouge-score's own tokenizer would shred Korean
    assert "'intl'" in done.stderr
    done = python("score", "--metric", "rouge", "--tokenizer", "intl", "--json", *files)
    assert "tok:intl" in done.stdout
    done = python("score", "--metric", "rouge", "--tokenizer", "char", "--json", *files)
    rouge1 = json.loads(done.stdout)["scores"]["rouge1"]["score"]
    # by characters, as a model of this size learns the endings long before it learns who did what
    assert rouge1 > 15, done.stdout


def test_demo_on_ones_own_files(tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text((ROOT / "README.md").read_text())
    english = ["the cat reads a book at home.", "a farmer sold an apple in the market.", "the doctor found a letter."]
    draw = random.Random(0)
    with open(tmp_path / "pairs.jsonl", "w") as f:
        for i in range(400):
            source = f"number {i} " + " ".join(draw.choice(english).rstrip(".") for _ in range(2)) + "."
            f.write(json.dumps({"src": source, "tgt": " ".join(source.split()[2:6])}) + "\n")
    command = [
        *("bash", "scripts/demo.sh", "--text", tmp_path / "text", "--pairs", tmp_path / "pairs.jsonl"),
        *("--out", tmp_path / "out", "--vocab-size", 200, "--pretrain-updates", 30, "--finetune-updates", 30),
    ]
    done = run(*command)
    out = tmp_path / "out"
    for name in ("report.txt", "scores.json", "losses.png", "mask.png", "finetune.hyp.txt"):
        assert (out / name).stat().st_size > 50, name
    for name in ("pretrain", "finetune", "scratch"):
        assert (out / name / "checkpoint_last.pt").exists()
    assert "+ pmlm prepare text" in done.stdout
    assert "ROUGE-1" in done.stdout
    tests = len((out / "corpus" / "pairs.test.jsonl").read_text().splitlines())
    assert len((out / "finetune.hyp.txt").read_text().splitlines()) == tests
    again = run(*command)
    assert again.stdout.count("already done") >= 10
    assert "\n+ " not in again.stdout  # nothing ran
    shutil.rmtree(out / "finetune")
    third = run(*command)
    assert "== Fine-tuning the pre-trained model (" in third.stdout
    assert "== Pre-training: one pass for two objectives: already done" in third.stdout
    done = run("bash", "scripts/demo.sh", "--text", tmp_path / "text", check=False)
    assert done.returncode == 2
    assert "belong together" in done.stderr
