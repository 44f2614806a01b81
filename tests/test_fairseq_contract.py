"""The contract with fairseq: the real commands, started as a user starts them, against direct calls of the backbone."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fairseq_pmlm import identity

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
USER_DIR = ["--user-dir", str(ROOT / "fairseq_pmlm")]
WORDS = [f"w{i}" for i in range(40)]
SMALL = [
    *("--encoder-layers", 2, "--encoder-embed-dim", 32, "--encoder-ffn-embed-dim", 64),
    *("--encoder-attention-heads", 2, "--max-positions", 64),
]
OPTIMIZER = [
    *("--optimizer", "adam", "--lr", 0.003, "--lr-scheduler", "polynomial_decay", "--total-num-update", 100),
    *("--warmup-updates", 5, "--cpu", "--no-epoch-checkpoints", "--log-format", "json", "--log-interval", 10),
    *("--validate-interval", 100, "--save-interval", 100),  # epochs are short here; the last update does both
]
SEQ2SEQ = ["--task", "pmlm_seq2seq", "--criterion", "pmlm_seq2seq", "--arch", "pmlm_tiny", *SMALL]
PRETRAIN = ["--task", "pmlm", "--criterion", "pmlm", "--arch", "pmlm_tiny", *SMALL, "--tokens-per-sample", "32"]


def command(name, *args, cwd=None, check=True, stdin=None):
    """Run fairseq-NAME with *args* in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", f"fairseq_cli.{name}", *map(str, args)],
        cwd=cwd, input=stdin, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    if check:
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def sentences(count, seed, low=4, high=14):
    """Text with some structure: each word is mostly followed by the next one."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        word, line = int(rng.integers(40)), []
        for _ in range(int(rng.integers(low, high))):
            line.append(WORDS[word])
            word = (word + 1) % 40 if rng.random() < 0.8 else int(rng.integers(40))
        yield " ".join(line)


@pytest.fixture(scope="session")
def work(tmp_path_factory):
    """Binarized text and pairs: 37 test pairs, which no batch multiple divides."""
    path = tmp_path_factory.mktemp("contract")
    (path / "dict.txt").write_text("".join(f"{w} 1\n" for w in [*WORDS, "<mask>", "<pseudo>"]))
    for split, count in (("train", 300), ("valid", 37)):
        lines = list(sentences(count, len(split)))
        (path / f"{split}.txt").write_text(
            "\n".join(x for i, line in enumerate(lines) for x in ([line, ""] if i % 7 == 6 else [line])) + "\n"
        )
    for split, count in (("train", 200), ("valid", 37), ("test", 37)):
        source = list(sentences(count, 10 + len(split) + len(split[0])))
        (path / f"p.{split}.src").write_text("\n".join(source) + "\n")
        (path / f"p.{split}.tgt").write_text("\n".join(" ".join(line.split()[:5]) for line in source) + "\n")
    command(
        "preprocess",
        "--only-source",
        "--srcdict",
        path / "dict.txt",
        "--trainpref",
        path / "train.txt",
        "--validpref",
        path / "valid.txt",
        "--destdir",
        path / "text",
    )
    command(
        "preprocess",
        "-s",
        "src",
        "-t",
        "tgt",
        "--srcdict",
        path / "dict.txt",
        "--tgtdict",
        path / "dict.txt",
        "--trainpref",
        path / "p.train",
        "--validpref",
        path / "p.valid",
        "--testpref",
        path / "p.test",
        "--destdir",
        path / "pairs",
    )
    return path


def pretrain(work, save_dir, *options, updates=100, check=True):
    size = ["--max-tokens", 600, "--max-update", updates, "--save-dir", save_dir]
    return command("train", work / "text", *USER_DIR, *PRETRAIN, *OPTIMIZER, *size, *options, check=check)


def finetune(work, save_dir, *options, updates=60, check=True):
    size = ["--max-tokens", 1000, "--max-update", updates, "--save-dir", save_dir]
    return command("train", work / "pairs", *USER_DIR, *SEQ2SEQ, *OPTIMIZER, *size, *options, check=check)


@pytest.fixture(scope="session")
def pretrained(work):
    done = pretrain(work, work / "pretrained")
    return work / "pretrained" / "checkpoint_last.pt", done.stdout


@pytest.fixture(scope="session")
def finetuned(work, pretrained):
    finetune(work, work / "finetuned", "--finetune-from-model", pretrained[0])
    return work / "finetuned" / "checkpoint_last.pt"


@pytest.fixture(scope="session")
def other(work, pretrained):
    finetune(work, work / "other", "--finetune-from-model", pretrained[0], "--seed", 5, updates=20)
    return work / "other" / "checkpoint_last.pt"


def load(path):
    """A checkpoint's model and task, for direct calls."""
    from fairseq import checkpoint_utils

    models, _, task = checkpoint_utils.load_model_ensemble_and_task([str(path)])
    return models[0].eval(), task


def logged(stdout, tag):
    """The JSON objects that fairseq logged under *tag*."""
    found = re.findall(rf"\| INFO \| {tag} \| (\{{.*\}})$", stdout, re.MULTILINE)
    return [json.loads(line) for line in found]


def test_pretraining_logs_both_objectives(pretrained):
    train, valid = logged(pretrained[1], "train")[-1], logged(pretrained[1], "valid")[-1]
    for name in ("ae", "par"):
        for key in ("loss", "ppl", "accuracy"):
            assert f"train_{name}_{key}" in train
            assert f"valid_{name}_{key}" in valid
        assert float(valid[f"valid_{name}_ppl"]) == pytest.approx(2 ** float(valid[f"valid_{name}_loss"]), rel=0.02)
    assert float(valid["valid_loss"]) == pytest.approx(
        float(valid["valid_ae_loss"]) + float(valid["valid_par_loss"]), abs=0.01
    )
    assert float(train["train_nmasked"]) > 0
    assert float(valid["valid_ae_loss"]) < math.log2(40)


def test_resuming_equals_not_stopping(work, pretrained):
    pretrain(work, work / "resumed", updates=50)
    done = pretrain(work, work / "resumed", updates=100)
    assert "Loaded checkpoint" in done.stdout
    one = torch.load(pretrained[0], weights_only=False)
    two = torch.load(work / "resumed" / "checkpoint_last.pt", weights_only=False)
    for key, value in one["model"].items():
        assert torch.equal(value, two["model"][key]), key
    assert one["extra_state"]["val_loss"] == pytest.approx(two["extra_state"]["val_loss"], abs=1e-5)
    ends = [logged(out, "train_inner") for out in (pretrained[1], done.stdout)]
    for now, then in zip(ends[0][-5:], ends[1][-5:], strict=True):  # updates 60 .. 100
        assert now["num_updates"] == then["num_updates"]
        assert float(now["loss"]) == pytest.approx(float(then["loss"]), abs=1e-3)


def test_workers_change_nothing(work):
    for workers in (0, 3):
        pretrain(work, work / f"workers{workers}", "--num-workers", workers, updates=20)
    one, two = (torch.load(work / f"workers{n}" / "checkpoint_last.pt", weights_only=False)["model"] for n in (0, 3))
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_two_processes_started_by_hand(work, tmp_path):
    """Each process trains on its own share, with workers of its own, and both end with the same weights."""
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = [
        *("--distributed-world-size", 2, "--distributed-no-spawn", "--device-id", 0, "--distributed-backend", "gloo"),
        *("--distributed-init-method", f"tcp://127.0.0.1:{port}", "--ddp-backend", "legacy_ddp"),
        *("--max-tokens", 600, "--max-update", 12, "--num-workers", 1, "--save-dir", tmp_path / "two"),
    ]
    arguments = [work / "text", *USER_DIR, *PRETRAIN, *OPTIMIZER, *options, "--distributed-rank"]
    runs = [
        subprocess.Popen(
            [sys.executable, "-m", "fairseq_cli.train", *map(str, arguments), str(rank)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in (0, 1)
    ]
    output = [run.communicate(timeout=300)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], output[0][-2000:] + output[1][-2000:]
    assert "num_updates: 12 >= max_update: 12" in output[0]
    state = torch.load(tmp_path / "two" / "checkpoint_last.pt", weights_only=False)
    assert state["optimizer_history"][-1]["num_updates"] == 12
    # twice the masked tokens of one process an update, less what an uneven last batch lacks
    alone = logged(pretrain(work, tmp_path / "one", updates=12).stdout, "train")[-1]
    both = logged(output[0], "train")[-1]
    assert float(both["train_nmasked"]) > 1.7 * float(alone["train_nmasked"])


@pytest.mark.parametrize("objective", ["ae", "par", "ar", "ae+ar"])
def test_every_objective_trains(work, objective):
    done = pretrain(work, work / "objective", "--objective", objective, "--no-save", "--relative-positions", updates=3)
    valid = logged(done.stdout, "valid")[-1]
    assert {key for key in ("ae", "par", "ar") if f"valid_{key}_loss" in valid} == set(objective.split("+"))


def test_shards_are_visited_in_turn(work):
    data = f"{work / 'text'}:{work / 'text2'}"
    command(
        "preprocess",
        "--only-source",
        "--srcdict",
        work / "dict.txt",
        "--trainpref",
        work / "valid.txt",
        "--destdir",
        work / "text2",
    )
    done = command("train", data, *USER_DIR, *PRETRAIN, *OPTIMIZER, "--batch-size", 64, "--max-epoch", 3, "--no-save")
    loaded = re.findall(r"loaded [\d,]+ blocks .* from \S*/(text2?)/train", done.stdout)
    assert loaded[:3] == ["text", "text2", "text"]


def test_validate_repeats_the_training_run(work, pretrained):
    done = command(
        "validate",
        work / "text",
        *USER_DIR,
        "--path",
        pretrained[0],
        "--task",
        "pmlm",
        "--max-tokens",
        600,
        "--cpu",
        "--log-format",
        "json",
    )
    line = json.loads(re.findall(r"(\{\"epoch.*|\{\"valid.*|\{.*ae_loss.*\})$", done.stdout, re.MULTILINE)[-1])
    valid = logged(pretrained[1], "valid")[-1]
    assert float(line["valid_ae_loss"]) == pytest.approx(float(valid["valid_ae_loss"]), abs=2e-3)


def hypotheses(stdout, kind="H"):
    """{id: [(score, text)]} of fairseq-generate's or -interactive's output."""
    found = {}
    for number, score, text in re.findall(rf"^{kind}-(\d+)\t(\S+)\t(.*)$", stdout, re.MULTILINE):
        found.setdefault(int(number), []).append((float(score), text))
    return found


def generate(work, path, *options, subset="test"):
    return command(
        "generate",
        work / "pairs",
        *USER_DIR,
        "--task",
        "pmlm_seq2seq",
        "--path",
        path,
        "--gen-subset",
        subset,
        "--cpu",
        *options,
    ).stdout


@pytest.mark.parametrize(
    "batching", [["--batch-size", 8], ["--batch-size", 16, "--beam", 1], ["--max-tokens", 200], ["--batch-size", 128]]
)
def test_every_sentence_gets_its_hypothesis(work, finetuned, batching):
    found = hypotheses(generate(work, finetuned, *batching))
    assert sorted(found) == list(range(37))


def test_generation_equals_the_direct_search(work, finetuned):
    from test_decoding import beam_search

    model, task = load(finetuned)
    found = hypotheses(generate(work, finetuned, "--batch-size", 5, "--beam", 3, "--max-len-b", 8, "--nbest", 3))
    source = [line.split() for line in (work / "p.test.src").read_text().splitlines()]
    for i in range(0, 37, 9):
        tokens = [0, *(task.dictionary.index(w) for w in source[i]), 2]
        expected = beam_search(model, tokens, 3, max_len=8)
        assert [text for _, text in found[i]] == [task.dictionary.string(t) for t, _ in expected]
        for (score, _), (_, reference) in zip(found[i], expected, strict=True):
            assert score == pytest.approx(reference / math.log(2), abs=1e-4)


def test_scoring_references_equals_full_forwards(work, finetuned):
    from test_decoding import full_forward

    model, task = load(finetuned)
    stdout = generate(work, finetuned, "--score-reference", "--batch-size", 8)
    scores = dict(re.findall(r"^P-(\d+)\t(.*)$", stdout, re.MULTILINE))
    assert len(scores) == 37
    source = (work / "p.test.src").read_text().splitlines()
    target = (work / "p.test.tgt").read_text().splitlines()
    for i in (0, 11, 36):
        tokens = [0, *(task.dictionary.index(w) for w in source[i].split()), 2]
        words = [*(task.dictionary.index(w) for w in target[i].split()), 2]
        expected = [full_forward(model, tokens, words[:t])[word].item() / math.log(2) for t, word in enumerate(words)]
        assert [float(x) for x in scores[str(i)].split()] == pytest.approx(expected, abs=2e-4)


def test_corruption_is_for_training_alone(work, finetuned):
    from test_decoding import full_forward

    model, task = load(finetuned)
    stdout = generate(work, finetuned, "--score-reference", "--batch-size", 8, subset="train")
    scores = dict(re.findall(r"^P-(\d+)\t(.*)$", stdout, re.MULTILINE))
    source, target = ((work / f"p.train.{side}").read_text().splitlines() for side in ("src", "tgt"))
    assert len(scores) == len(source)
    for i in (5, 100):
        tokens = [0, *(task.dictionary.index(w) for w in source[i].split()), 2]
        words = [*(task.dictionary.index(w) for w in target[i].split()), 2]
        expected = [full_forward(model, tokens, words[:t])[word].item() / math.log(2) for t, word in enumerate(words)]
        assert [float(x) for x in scores[str(i)].split()] == pytest.approx(expected, abs=2e-4)


def test_a_prefix_is_kept(work, finetuned):
    found = hypotheses(generate(work, finetuned, "--prefix-size", 2, "--batch-size", 8))
    target = [line.split() for line in (work / "p.test.tgt").read_text().splitlines()]
    for i, hypothesis in found.items():
        assert hypothesis[0][1].split()[:2] == target[i][:2]


def test_an_ensemble_of_two_averages(work, finetuned, other):
    from test_decoding import full_forward

    stdout = generate(work, f"{finetuned}:{other}", "--score-reference", "--batch-size", 8)
    scores = dict(re.findall(r"^P-(\d+)\t(.*)$", stdout, re.MULTILINE))
    models = [load(path)[0] for path in (finetuned, other)]
    dictionary = load(finetuned)[1].dictionary
    tokens = [0, *(dictionary.index(w) for w in (work / "p.test.src").read_text().splitlines()[3].split()), 2]
    words = [*(dictionary.index(w) for w in (work / "p.test.tgt").read_text().splitlines()[3].split()), 2]
    expected = [
        math.log2(sum(full_forward(m, tokens, words[:t])[word].exp().item() for m in models) / 2)
        for t, word in enumerate(words)
    ]
    assert [float(x) for x in scores["3"].split()] == pytest.approx(expected, abs=2e-4)
    assert sorted(hypotheses(generate(work, f"{finetuned}:{other}", "--batch-size", 8))) == list(range(37))


def interactive(work, path, source, *options, check=True):
    options = ["--task", "pmlm_seq2seq", "--path", path, "--cpu", "--buffer-size", 37, "--batch-size", 10, *options]
    return command("interactive", work / "pairs", *USER_DIR, *options, stdin=source, check=check)


def test_interactive_equals_generate(work, finetuned):
    source = (work / "p.test.src").read_text()
    options = ["--beam", 2, "--max-len-b", 10]
    done = interactive(work, finetuned, source, *options)
    ours, theirs = hypotheses(done.stdout), hypotheses(generate(work, finetuned, "--batch-size", 10, *options))
    assert sorted(ours) == list(range(37))
    assert {i: h[0][1] for i, h in ours.items()} == {i: h[0][1] for i, h in theirs.items()}


def test_interactive_with_constraints_and_an_empty_line(work, finetuned):
    first, second, *_ = (work / "p.test.src").read_text().splitlines()
    word = second.split()[0]
    source = f"{first}\t{word}\n\n{second}\n"
    done = interactive(work, finetuned, source, "--constraints", "--beam", 4, "--max-len-b", 10)
    found = hypotheses(done.stdout)
    assert sorted(found) == [0, 1, 2]
    assert word in found[0][0][1].split()
    assert found[1] == [(found[1][0][0], "")]
    assert "1 of 3 lines of the input are empty; so will their hypotheses be" in done.stderr
    done = command(
        "generate",
        work / "pairs",
        *USER_DIR,
        "--task",
        "pmlm_seq2seq",
        "--path",
        finetuned,
        "--constraints",
        check=False,
    )
    refused(done, "--constraints", "fairseq-interactive")


def test_our_own_options_of_generation(work, finetuned):
    options = ["--beam", 3, "--max-len-b", 12, "--batch-size", 10]
    plain = hypotheses(generate(work, finetuned, *options, "--lenpen", 0))
    sums = ["--length-penalty-type", "wu", "--lenpen", 0]
    assert hypotheses(generate(work, finetuned, *options, *sums)) == plain
    results = [
        hypotheses(generate(work, finetuned, *options, "--nbest", 3, "--early-stop", stop))
        for stop in ("exact", "never")
    ]
    assert sorted(results[0]) == list(range(37))
    assert {i: [text for _, text in h] for i, h in results[0].items()} == {
        i: [text for _, text in h] for i, h in results[1].items()
    }


def test_validation_of_pairs_equals_direct_losses(work, finetuned):
    done = command(
        "validate",
        work / "pairs",
        *USER_DIR,
        "--path",
        finetuned,
        "--task",
        "pmlm_seq2seq",
        "--batch-size",
        8,
        "--cpu",
        "--log-format",
        "json",
    )
    line = json.loads(re.findall(r"(\{.*nll_loss.*\})$", done.stdout, re.MULTILINE)[-1])
    model, task = load(finetuned)
    task.load_dataset("valid")
    data = task.dataset("valid")
    batch = data.collater([data[i] for i in range(len(data))])
    assert len(data) == 37
    with torch.no_grad():
        lprobs = model.get_normalized_probs(model(**batch["net_input"]), log_probs=True)
    nll = -lprobs.gather(-1, batch["target"][..., None])[..., 0][batch["target"].ne(1)]
    assert float(line["valid_nll_loss"]) == pytest.approx(nll.mean().item() / math.log(2), abs=2e-3)


def test_encoding_and_generating_share_every_tensor(finetuned):
    model, _ = load(finetuned)
    parameters = {p.data_ptr() for p in model.parameters()}
    assert model.encoder.model.backbone is model.backbone
    assert model.decoder.model.backbone is model.backbone
    assert {p.data_ptr() for p in model.backbone.parameters()} <= parameters
    assert len(parameters) == len(list(model.parameters()))  # nothing stands twice, the tied weight included


def test_finetuning_starts_from_the_pretrained_weights(work, pretrained):
    finetune(work, work / "start", "--finetune-from-model", pretrained[0], "--lr", 0, updates=1)
    start = torch.load(work / "start" / "checkpoint_last.pt", weights_only=False)["model"]
    before = torch.load(pretrained[0], weights_only=False)["model"]
    assert start.keys() == before.keys()
    for key in before:
        assert torch.equal(before[key], start[key]), key


def test_the_position_table_grows_by_repetition(work, pretrained):
    finetune(work, work / "grown", "--finetune-from-model", pretrained[0], "--lr", 0, "--max-positions", 100, updates=1)
    table = torch.load(work / "grown" / "checkpoint_last.pt", weights_only=False)["model"][
        "backbone.embed_positions.weight"
    ]
    before = torch.load(pretrained[0], weights_only=False)["model"]["backbone.embed_positions.weight"]
    assert torch.equal(table, torch.cat([before, before[:36]]))


def test_user_dir_by_relative_path_from_the_checkout(work):
    done = command(
        "train",
        work / "text",
        "--user-dir",
        "fairseq_pmlm",
        *PRETRAIN,
        *OPTIMIZER,
        "--batch-size",
        8,
        "--max-update",
        1,
        "--no-save",
        cwd=ROOT,
    )
    assert logged(done.stdout, "valid")[-1]["valid_num_updates"] == "1"


def refused(done, *parts):
    """The command failed, and its last line on stderr is one clear line that holds all of *parts*."""
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert "error" in last, done.stderr[-2000:]
    assert "Traceback" not in done.stderr, done.stderr[-3000:]
    for part in parts:
        assert part in last, last


def test_bad_options_of_pretraining(work, tmp_path):
    def run(*options):
        return pretrain(work, tmp_path / "x", *options, updates=1, check=False)

    refused(run("--objective", "mlm"), "--objective", "mlm", "ae+par")
    refused(run("--tokens-per-sample", 65), "--tokens-per-sample 65", "--max-positions 64")
    refused(run("--max-tokens", 20), "--max-tokens 20", "slots")
    refused(run("--mask-prob", 0), "--mask-prob 0")
    refused(run("--encoder-attention-heads", 3), "--encoder-attention-heads 3", "32")
    refused(run("--relative-positions", "--relative-position-bins", 2), "--relative-position-bins 2")
    refused(run("--arch", "roberta_base", "--max-positions", 64), "--arch roberta_base", "pmlm_base")
    refused(command("train", tmp_path, *USER_DIR, *PRETRAIN, *OPTIMIZER, "--batch-size", 8, check=False), "dict.txt")
    assert not (tmp_path / "x").exists() or not list((tmp_path / "x").glob("*.pt"))


def test_contradictions_to_the_checkpoint(work, pretrained, tmp_path):
    def run(*options, data=work):
        return finetune(data, tmp_path / "x", "--finetune-from-model", pretrained[0], *options, updates=1, check=False)

    name = "checkpoint_last.pt"
    refused(run("--encoder-attention-heads", 4), name, "--encoder-attention-heads 2", "4")
    refused(run("--layer-norm-eps", 1e-5), name, "--layer-norm-eps 1e-12", "1e-05")
    refused(run("--activation-fn", "relu"), name, "--activation-fn gelu", "relu")
    refused(run("--encoder-layers", 3), name, "another architecture", "layers.2")
    refused(run("--encoder-ffn-embed-dim", 32), name, "another architecture", "(64, 32)", "(32, 32)")
    refused(run("--relative-positions"), name, "--relative-positions False", "True")


def test_another_dictionary_of_the_same_size(work, pretrained, finetuned, tmp_path):
    words = [WORDS[1], WORDS[0], *WORDS[2:], "<mask>", "<pseudo>"]
    (tmp_path / "dict.txt").write_text("".join(f"{w} 1\n" for w in words))
    prefixes = [x for split in ("train", "valid", "test") for x in (f"--{split}pref", work / f"p.{split}")]
    command(
        "preprocess",
        "-s",
        "src",
        "-t",
        "tgt",
        "--srcdict",
        tmp_path / "dict.txt",
        "--tgtdict",
        tmp_path / "dict.txt",
        *prefixes,
        "--destdir",
        tmp_path / "pairs",
    )
    refused(
        finetune(tmp_path, tmp_path / "x", "--finetune-from-model", pretrained[0], check=False),
        "dictionary",
        "dict.txt",
    )
    done = command(
        "generate", tmp_path / "pairs", *USER_DIR, "--task", "pmlm_seq2seq", "--path", finetuned, "--cpu", check=False
    )
    refused(done, "dictionary", "dict.txt")


def test_another_tokenizer(work, pretrained, tmp_path):
    """The tokenizer file that lies beside the dictionary is compared by its bytes."""
    import shutil

    for name in ("text", "pairs"):
        shutil.copytree(work / name, tmp_path / name)
        (tmp_path / name / "vocab.txt").write_text("one")
    pretrain(tmp_path, tmp_path / "one", updates=1)
    checkpoint = tmp_path / "one" / "checkpoint_last.pt"
    finetune(tmp_path, tmp_path / "same", "--finetune-from-model", checkpoint, updates=1)
    (tmp_path / "pairs" / "vocab.txt").write_text("two")
    refused(
        finetune(tmp_path, tmp_path / "x", "--finetune-from-model", checkpoint, check=False), "tokenizer", "vocab.txt"
    )


def test_pairs_beyond_the_limits(work, finetuned, tmp_path):
    limits = ["--max-source-positions", 8, "--max-target-positions", 4]
    done = finetune(work, tmp_path / "x", *limits, updates=1, check=False)
    refused(done, "of 37", "--max-source-positions 8", "--cut-source")
    done = finetune(work, tmp_path / "x", *limits, "--cut-source", "tail", updates=1, check=False)
    refused(done, "--max-target-positions 4", "--cut-target")
    done = finetune(work, tmp_path / "x", *limits, "--cut-source", "tail", "--cut-target", "head", updates=1)
    assert len(re.findall("cut to their tail", done.stdout)) == 2  # counted for train and for valid
    found = hypotheses(generate(work, tmp_path / "x" / "checkpoint_last.pt", "--batch-size", 8))  # cut as in training
    assert sorted(found) == list(range(37))
    refused(
        finetune(work, tmp_path / "y", "--max-source-positions", 60, "--max-target-positions", 10, check=False),
        "60",
        "10",
        "64",
    )


def test_broken_checkpoints(work, pretrained, finetuned, tmp_path):
    whole = pretrained[0].read_bytes()
    (tmp_path / "half.pt").write_bytes(whole[: len(whole) // 2])
    refused(finetune(work, tmp_path / "x", "--finetune-from-model", tmp_path / "half.pt", check=False), "half.pt")
    done = finetune(work, tmp_path / "x", "--finetune-from-model", tmp_path / "none.pt", check=False)
    refused(done, "none.pt", "does not exist")
    torch.save({"model": {}, "args": None, "cfg": {}, "evil": Path("/")}, tmp_path / "type.pt")
    refused(
        finetune(work, tmp_path / "x", "--finetune-from-model", tmp_path / "type.pt", check=False), "type.pt", "Path"
    )
    done = command(
        "generate",
        work / "pairs",
        *USER_DIR,
        "--task",
        "pmlm_seq2seq",
        "--path",
        tmp_path / "none.pt",
        "--cpu",
        check=False,
    )
    refused(done, "none.pt", "does not exist")


def test_alignment_is_refused(work, finetuned):
    done = command(
        "generate",
        work / "pairs",
        *USER_DIR,
        "--task",
        "pmlm_seq2seq",
        "--path",
        finetuned,
        "--print-alignment",
        "--cpu",
        check=False,
    )
    refused(done, "--print-alignment")
    options = ["--task", "pmlm_seq2seq", "--path", finetuned, "--match-source-len", "--cpu"]
    refused(command("generate", work / "pairs", *USER_DIR, *options, check=False), "--match-source-len")


def test_identity_survives_averaging(pretrained):
    stored = torch.load(pretrained[0], weights_only=False)["model"]["identity"]
    averaged = (stored.clone() + stored + stored) // 3
    assert identity.from_tensor(averaged) == identity.from_tensor(stored)
    assert identity.from_tensor(stored)["encoder_attention_heads"] == 2
