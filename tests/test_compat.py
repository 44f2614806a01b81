"""fairseq_pmlm.compat: each patch, what happens without it, and what it must not do."""

import argparse
import ast
import io
import os
import pickle
import re
import shlex
import socket
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from fairseq import checkpoint_utils
from fairseq.data import Dictionary, data_utils, indexed_dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from test_loading import Call

from fairseq_pmlm import compat, patching
from fairseq_pmlm.errors import PMLMError

ROOT = Path(__file__).parents[1]
SENTENCES = 37
MODEL = shlex.split(
    "--task translation --arch transformer_iwslt_de_en --encoder-layers 1 --decoder-layers 1 "
    "--encoder-embed-dim 16 --encoder-ffn-embed-dim 16 --encoder-attention-heads 2 "
    "--decoder-embed-dim 16 --decoder-ffn-embed-dim 16 --decoder-attention-heads 2 "
    "--optimizer adam --lr 0.01 --max-tokens 64 --cpu --num-workers 0"
)

# a second user module: shows what each process trains, and gives warnings of its own, where the user's code would
SPY = """
import os, warnings
{imports}
from fairseq.trainer import Trainer

train_step = Trainer.train_step

def spy(self, samples, *args, **kwargs):
    result = train_step(self, samples, *args, **kwargs)
    weights = sum(p.detach().double().abs().sum().item() for p in self.model.parameters())
    ids = [int(i) for sample in samples if sample for i in sample["id"]]
    print("SPY", self.get_num_updates(), repr(weights), ids, flush=True)
    return result

Trainer.train_step = spy
warnings.warn("a user's own UserWarning")
warnings.warn("a user's own FutureWarning", FutureWarning)
warnings.warn("a user's own DeprecationWarning: shown in __main__ only, unless asked for", DeprecationWarning)
"""


def fairseq(command, *args, check=True, **env):
    """Run one of fairseq's commands as its console script does."""
    return finish(start(command, *args, **env), check)


def start(command, *args, **env):
    code = f"import sys; from fairseq_cli.{command} import cli_main; sys.exit(cli_main())"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **env}
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args)], env=environment, stdout=-1, stderr=-1, text=True
    )


def finish(process, check=True):
    stdout, stderr = process.communicate(timeout=120)
    assert not check or process.returncode == 0, stderr
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def python(code, **env):
    """Run *code* in an interpreter of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **env}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env=environment, capture_output=True, text=True, timeout=120
    )


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A data set of 37 sentence pairs, two user modules, and the checkpoint of a real fairseq-train."""
    toy = tmp_path_factory.mktemp("toy")
    random = np.random.default_rng(0)
    dictionary = Dictionary()
    for symbol in "abcdefgh":
        dictionary.add_symbol(symbol, 10)
    (toy / "bin").mkdir()
    for language in ("s", "t"):
        dictionary.save(str(toy / f"bin/dict.{language}.txt"))
        for split in ("train", "valid", "test"):
            path = str(toy / f"bin/{split}.s-t.{language}")
            builder = indexed_dataset.make_builder(path + ".bin", "mmap", vocab_size=len(dictionary))
            for _ in range(SENTENCES):
                sentence = random.integers(dictionary.nspecial, len(dictionary), random.integers(1, 8))
                builder.add_item(torch.tensor([*sentence, dictionary.eos()]))
            builder.finalize(path + ".idx")
    for name, imports in ("spy", "import fairseq_pmlm"), ("bare", ""), ("half", "HALF"):
        # "half" mends the first of the two places that load, as a user would: by allowing the options
        half = "import argparse, torch; torch.serialization.add_safe_globals([argparse.Namespace])"
        (toy / name).mkdir()
        (toy / name / "__init__.py").write_text(SPY.format(imports=half if imports == "HALF" else imports))
    options = [toy / "bin", *MODEL, "--max-epoch", 1, "--save-dir", toy / "ck", "--disable-validation"]
    toy_run = fairseq("train", *options, "--user-dir", toy / "spy")
    assert "num_updates" in toy_run.stdout
    (toy / "train.stdout").write_text(toy_run.stdout)
    (toy / "train.stderr").write_text(toy_run.stderr)
    return toy


@pytest.fixture(scope="module")
def checkpoint(toy):
    return toy / "ck/checkpoint_last.pt"


# ---------------------------------------------------------------------------------------------------------------------
# checkpoints


def test_real_checkpoint_loads_with_the_patch_only(checkpoint):
    state = checkpoint_utils.load_checkpoint_to_cpu(str(checkpoint))
    assert isinstance(state["cfg"].model, argparse.Namespace)
    assert state["optimizer_history"][-1]["num_updates"] > 0
    # the original uses torch.load, which refuses the options
    with pytest.raises(pickle.UnpicklingError, match=r"argparse\.Namespace"):
        compat.ORIGINALS["fairseq.checkpoint_utils.load_checkpoint_to_cpu"](str(checkpoint))


def test_ema_weights_load_with_the_patch_only(tmp_path):
    path = str(tmp_path / "ema.pt")
    torch.save({"args": argparse.Namespace(), "extra_state": {"ema": {"w": torch.ones(2)}}}, path)
    assert checkpoint_utils.load_ema_from_checkpoint(path)["model"]["w"].tolist() == [1, 1]
    assert checkpoint_utils.load_ema_from_checkpoint(fpath=path)["model"]["w"].tolist() == [1, 1]
    with pytest.raises(pickle.UnpicklingError):
        compat.ORIGINALS["fairseq.checkpoint_utils.load_ema_from_checkpoint"](path)


def test_a_torch_load_that_somebody_else_replaced_is_not_used(tmp_path, monkeypatch, checkpoint):
    proof, path, unsafe = tmp_path / "executed", tmp_path / "model.pt", torch.load
    # what people do about torch >= 2.6
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: unsafe(*args, **{**kwargs, "weights_only": False}))
    replaced = torch.load
    torch.save(Call(os.system, f"touch {proof}"), path)
    with pytest.raises(PMLMError, match="could run code"):
        checkpoint_utils.load_checkpoint_to_cpu(str(path))
    assert not proof.exists()
    assert torch.load is replaced
    assert checkpoint_utils.load_checkpoint_to_cpu(str(checkpoint))


def test_truncated_checkpoint_is_one_clear_line(checkpoint, tmp_path):
    content, path = checkpoint.read_bytes(), tmp_path / "cut.pt"
    for size in (0, 1, 2, 4, 100, len(content) // 3, len(content) // 2, len(content) - 100, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(PMLMError) as error:
            checkpoint_utils.load_checkpoint_to_cpu(str(path))
        assert f"checkpoint {path} is truncated, or not a checkpoint" in str(error.value), size
        assert "\n" not in str(error.value)


def test_truncated_legacy_checkpoint_and_other_files(tmp_path):
    path, buffer = tmp_path / "cut.pt", io.BytesIO()
    torch.save({"model": {"w": torch.ones(1000)}, "args": None}, buffer, _use_new_zipfile_serialization=False)
    content = buffer.getvalue()
    other = [b"hello, I am a text\n", b"PK\x03\x04 not really a zip", pickle.dumps({"a": 1}), os.urandom(500)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch guesses at the pickle protocol
        for broken in [content[:size] for size in (1, 10, 50, 200, len(content) // 2, len(content) - 1)] + other:
            path.write_bytes(broken)
            with pytest.raises(PMLMError, match=r"cut\.pt"):
                checkpoint_utils.load_checkpoint_to_cpu(str(path))


def test_missing_checkpoint_is_one_clear_line(tmp_path):
    missing = str(tmp_path / "none.pt")
    with pytest.raises(PMLMError, match=r"^checkpoint .*none\.pt does not exist$"):
        checkpoint_utils.load_checkpoint_to_cpu(missing)
    with pytest.raises(PMLMError, match=r"^checkpoint .*none\.pt does not exist$"):
        checkpoint_utils.load_model_ensemble([missing])
    with pytest.raises(PMLMError, match="cannot be read"):
        checkpoint_utils.load_checkpoint_to_cpu(str(tmp_path))
    with pytest.raises(OSError, match="Model file not found"):
        compat.ORIGINALS["fairseq.checkpoint_utils.load_model_ensemble_and_task"]([missing])


def test_a_file_that_fairseq_can_make_nothing_of_is_named(tmp_path):
    path = tmp_path / "model.pt"
    torch.save({"no": "history"}, path)
    with pytest.raises(PMLMError, match=rf"checkpoint {path} cannot be used: KeyError: 'best_loss'"):
        checkpoint_utils.load_checkpoint_to_cpu(str(path))


@pytest.mark.slow
def test_error_line_of_a_real_command(toy, tmp_path):
    path = tmp_path / "cut.pt"
    path.write_bytes((toy / "ck/checkpoint_last.pt").read_bytes()[:-1000])
    options = [toy / "bin", "--user-dir", ROOT / "fairseq_pmlm", "--cpu", "--path"]
    run = fairseq("generate", *options, path, check=False)
    assert run.returncode == 1
    assert "Traceback" not in run.stderr
    last = run.stderr.splitlines()[-1]
    assert last.startswith(f"fairseq_pmlm: error: checkpoint {path} is truncated, or not a checkpoint (")


def resume(toy, user_dir, save_dir):
    """Two processes continue the run of one: see which updates each makes, from which sentences."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = shlex.split(
        "--distributed-world-size 2 --distributed-no-spawn --device-id 0 --distributed-backend gloo "
        f"--distributed-init-method tcp://127.0.0.1:{port} --ddp-backend legacy_ddp "
        "--max-epoch 2 --no-save --disable-validation"
    )
    options += ["--user-dir", toy / user_dir, "--save-dir", save_dir, "--restore-file", toy / "ck/checkpoint_last.pt"]
    runs = [start("train", toy / "bin", *MODEL, *options, "--distributed-rank", rank) for rank in (0, 1)]
    return [finish(run, check=False) for run in runs]


def updates(run):
    return [line.split(" ", 3)[1:] for line in run.stdout.splitlines() if line.startswith("SPY ")]


@pytest.mark.slow
def test_two_processes_resume(toy, tmp_path):
    runs = resume(toy, "spy", tmp_path)
    assert [run.returncode for run in runs] == [0, 0], runs[1].stderr
    before = updates(subprocess.CompletedProcess([], 0, (toy / "train.stdout").read_text()))
    first, second = updates(runs[0]), updates(runs[1])
    # both go on where one stopped, in step, with the same weights, each with its own share of the sentences
    assert int(first[0][0]) == int(before[-1][0]) + 1
    assert [u[:2] for u in first] == [u[:2] for u in second]
    assert first[0][1] != first[-1][1] or len(first) == 1
    shares = [[i for u in run for i in ast.literal_eval(u[2])] for run in (first, second)]
    assert sorted(shares[0] + shares[1]) == list(range(SENTENCES))
    assert all(shares)


@pytest.mark.slow
def test_two_processes_cannot_resume_without_the_patch(toy, tmp_path):
    # only loading is mended there, and not the broadcast: torch.load refuses the configuration
    runs = resume(toy, "half", tmp_path)
    assert runs[1].returncode != 0
    assert "_broadcast_object_slow" in runs[1].stderr
    assert "weights_only" in runs[1].stderr
    assert updates(runs[0]) == updates(runs[1]) == []


# ---------------------------------------------------------------------------------------------------------------------
# batches

original_batches = compat.ORIGINALS["fairseq.data.data_utils.batch_by_size"]


def lengths(batches):
    return [len(batch) for batch in batches]


@pytest.mark.parametrize("count", [1, 7, 8, 9, 37])
def test_no_sample_is_dropped(count):
    def sizes(index):
        return 5

    for options in ({"max_sentences": 8}, {"max_sentences": 16}, {"max_tokens": 50}, {"max_tokens": 40}, {}):
        options["required_batch_size_multiple"] = 8
        batches = data_utils.batch_by_size(range(count), sizes, **options)
        assert np.concatenate(batches).tolist() == list(range(count))
        dropped = count - sum(lengths(original_batches(range(count), sizes, **options)))
        assert dropped == count % 8  # what the patch is about


def test_no_samples_no_batches():
    assert data_utils.batch_by_size([], lambda i: 1, required_batch_size_multiple=8) == []
    with pytest.raises(IndexError):
        original_batches([], lambda i: 1, required_batch_size_multiple=8)


def test_indices_may_be_a_generator():
    batches = data_utils.batch_by_size((i for i in range(11)), lambda i: 1, max_sentences=4)
    assert lengths(batches) == [4, 4, 3]


def test_fixed_shapes_are_left_alone():
    # (batch size, length)
    shapes = [(8, 4), (4, 8)]
    for multiple in (1, 8):
        arguments = (np.arange(37), lambda i: int(i) % 8 + 1, None, None, None, multiple, shapes)
        ours, theirs = data_utils.batch_by_size(*arguments), original_batches(*arguments)
        assert [list(batch) for batch in ours] == [list(batch) for batch in theirs]


def slow_batches(indices, sizes, max_tokens, max_sentences, multiple):
    """The rule, written down: fill up while the limits hold, then hand on what exceeds the multiple; keep the tail."""
    batches, batch = [], []

    def close():
        keep = max(multiple * (len(batch) // multiple), len(batch) % multiple)
        batches.append(batch[:keep])
        del batch[:keep]

    def too_big(batch):
        too_many = max_sentences is not None and len(batch) > max_sentences
        too_long = max_tokens is not None and len(batch) * max(sizes[i] for i in batch) > max_tokens
        return too_many or too_long

    for index in indices:
        while too_big([*batch, index]):  # what was handed on may be too big together with a long sentence
            close()
        batch.append(index)
    while batch:
        close()
    return batches


@settings(deadline=None, max_examples=300)
@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=80),
    room=st.none() | st.integers(0, 200),
    max_sentences=st.none() | st.integers(1, 40),
    multiple=st.integers(1, 9),
    vector=st.booleans(),
    shuffle=st.randoms(use_true_random=False),
)
def test_every_index_once_in_order_within_limits(sizes, room, max_sentences, multiple, vector, shuffle):
    max_tokens = None if room is None else max(sizes) + room  # a longer sentence is an error before this is called
    indices = list(range(len(sizes)))
    shuffle.shuffle(indices)
    batches = data_utils.batch_by_size(
        np.array(indices),
        num_tokens_fn=lambda i: sizes[i],
        num_tokens_vec=np.array([sizes[i] for i in indices]) if vector else None,
        max_tokens=max_tokens,
        max_sentences=max_sentences,
        required_batch_size_multiple=multiple,
    )
    assert [int(i) for batch in batches for i in batch] == indices
    for batch in batches:
        assert len(batch) > 0
        assert max_sentences is None or len(batch) <= max_sentences
        assert max_tokens is None or len(batch) * max(sizes[i] for i in batch) <= max_tokens
    for batch in batches[:-1]:
        assert len(batch) < multiple or len(batch) % multiple == 0
    assert [list(batch) for batch in batches] == slow_batches(indices, sizes, max_tokens, max_sentences, multiple)


@pytest.mark.slow
def test_37_sentences_give_37_hypotheses(toy, checkpoint):
    options = [toy / "bin", "--path", checkpoint, "--cpu", "--beam", 1, "--num-workers", 0]
    options += ["--required-batch-size-multiple", 8, "--max-len-b", 3]
    run = fairseq("generate", *options, "--user-dir", ROOT / "fairseq_pmlm")
    assert len(re.findall(r"^H-\d+\t", run.stdout, re.M)) == SENTENCES
    assert noise(run.stderr) == []
    # without the patch: exit status 0, and 5 sentences fewer
    run = fairseq("generate", *options, "--user-dir", toy / "bare", TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD="1")
    assert len(re.findall(r"^H-\d+\t", run.stdout, re.M)) == 32
    messages = " ".join(noise(run.stderr))
    for part in ("hydra.experimental.initialize", "hydra.experimental.compose", "package header", "DEBUG:hydra"):
        assert part in messages


# ---------------------------------------------------------------------------------------------------------------------
# noise


def noise(stderr):
    """Lines of warnings that are not the user's own, and log lines for developers."""
    lines = [line for line in stderr.splitlines() if "Warning" in line or "DEBUG" in line]
    return [line for line in lines if "a user's own" not in line]


def test_training_shows_the_user_s_warnings_and_no_others(toy):
    stderr = (toy / "train.stderr").read_text()
    assert noise(stderr) == []  # nor does compat warn: this is the fairseq that it expects
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
                compat.silence_deprecations()
            exec(call, {"__name__": "fairseq.tasks.fairseq_task"})
        assert [warning.category for warning in seen] == ([] if silent else [FutureWarning])


def test_user_s_own_calls_still_warn():
    with warnings.catch_warnings(record=True) as seen:
        warnings.resetwarnings()
        warnings.simplefilter("always")
        compat.silence_deprecations()
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


# ---------------------------------------------------------------------------------------------------------------------
# importing


def test_applying_twice_changes_nothing():
    names = list(compat.ORIGINALS)
    before = data_utils.batch_by_size, checkpoint_utils.load_checkpoint_to_cpu, len(warnings.filters)
    compat.apply()
    assert (data_utils.batch_by_size, checkpoint_utils.load_checkpoint_to_cpu, len(warnings.filters)) == before
    assert list(compat.ORIGINALS) == names
    assert not any(hasattr(original, "pmlm_original") for original in compat.ORIGINALS.values())


def test_importing_twice_is_harmless():
    run = python("""
        import importlib, sys, warnings
        import fairseq_pmlm.compat as first
        from fairseq.data import data_utils

        filters = len(warnings.filters)
        del sys.modules["fairseq_pmlm.compat"]
        second = importlib.import_module("fairseq_pmlm.compat")
        second.apply()
        # the originals are patched again, never the patches
        assert second is not first and second.ORIGINALS == first.ORIGINALS
        assert data_utils.batch_by_size.pmlm_original is first.ORIGINALS["fairseq.data.data_utils.batch_by_size"]
        assert len(warnings.filters) == filters
        print("twice: fine", len(second.ORIGINALS))
        """)
    assert run.stdout.strip() == f"twice: fine {len(compat.ORIGINALS)}", run.stderr


def test_patches_of_one_function_add_up(monkeypatch):
    class Owner:
        @staticmethod
        def said():
            return ["original"]

    def add(word):
        return lambda original: lambda: [word, *original()]

    original = Owner.said
    for _ in range(2):  # the second time as after a re-import, which remembers nothing
        monkeypatch.setattr(patching, "ORIGINALS", {})
        assert patching.replace(Owner, "said", ['"original"'], add("first"))[1]
        assert patching.replace(Owner, "said", ['"original"'], add("second"))[1]
        assert Owner.said() == ["second", "first", "original"]
        assert list(patching.ORIGINALS.values()) == [original]


def worker(queue):
    batches = data_utils.batch_by_size(range(9), lambda i: 1, required_batch_size_multiple=8)
    queue.put((len(compat.ORIGINALS), lengths(batches), hasattr(data_utils.batch_by_size, "pmlm_original")))


@pytest.mark.slow
def test_spawned_worker_is_patched():
    context = torch.multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    process = context.Process(target=worker, args=(queue,))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert queue.get() == (len(compat.ORIGINALS), [8, 1], True)


BLOCKED = """
    import sys

    class Block:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] == {blocked!r}:
                raise {error}

    sys.meta_path.insert(0, Block())
    import fairseq_pmlm
    """


@pytest.mark.parametrize(
    ("blocked", "error", "line"),
    [
        ("fairseq", "ModuleNotFoundError(f'No module named {name}', name=name)", "fairseq is not installed"),
        ("hydra", "ModuleNotFoundError(f'No module named {name}', name=name)", "fairseq needs hydra, which is not"),
        # what fairseq 0.12.2 does on Python 3.11
        (
            "fairseq",
            "ValueError('mutable default for field common')",
            "fairseq cannot be imported (ValueError: mutable",
        ),
    ],
)
def test_without_fairseq_one_line_says_what_to_install(blocked, error, line):
    run = python(BLOCKED.format(blocked=blocked, error=error))
    assert run.returncode == 1
    assert len(run.stderr.splitlines()) == 1
    assert run.stderr.startswith(f"fairseq_pmlm: error: {line}")
    assert run.stderr.endswith('pip install "fairseq-pmlm[fairseq]"\n')
    assert issubclass(compat.MissingFairseqError, ImportError)


@pytest.mark.slow
def test_another_fairseq_gives_one_warning_that_names_the_function():
    run = python("""
        import fairseq.data.data_utils as data_utils
        import fairseq.checkpoint_utils as checkpoint_utils

        # upstream has mended both in its own way
        original = data_utils.batch_by_size
        def batch_by_size(*args, required_batch_size_multiple=1, **kwargs):
            return original(*args, **kwargs)
        data_utils.batch_by_size = batch_by_size
        del checkpoint_utils.load_ema_from_checkpoint

        import fairseq_pmlm
        batches = data_utils.batch_by_size(range(9), lambda i: 1, max_sentences=8, required_batch_size_multiple=8)
        print([len(batch) for batch in batches])
        """)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "[8, 1]"
    (warning,) = [line for line in run.stderr.splitlines() if "Warning" in line]
    assert "fairseq.data.data_utils.batch_by_size" in warning
    assert "fairseq.checkpoint_utils.load_ema_from_checkpoint" in warning
    assert "load_checkpoint_to_cpu" not in warning


def test_readers_end_before_python_does():
    code = """
import threading, time
import fairseq_pmlm.compat
from fairseq.data.iterators import BufferedIterator

class Endless:
    def __len__(self): return 10**9
    def __iter__(self):
        while True:
            time.sleep(0.001)
            yield 1

batches = BufferedIterator(3, Endless())
next(batches)
readers = [t for t in threading.enumerate() if type(t).__name__ == "BackgroundConsumer"]
assert len(readers) == 1 and readers[0].is_alive()
fairseq_pmlm.compat.stop_readers()
assert not readers[0].is_alive()
print("stopped")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "stopped"
