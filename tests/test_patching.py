"""Importing fairseq_pmlm: patches apply once, in every process, and say so where fairseq is missing or another."""

import argparse
import os
import subprocess
import sys
import textwrap
import warnings

import pytest
import torch
from commands import ROOT
from fairseq import checkpoint_utils, utils
from fairseq.data import data_utils

from fairseq_pmlm.fairseq_patches import apply, replace
from fairseq_pmlm.fairseq_patches.replace import ORIGINALS, Patch, install
from fairseq_pmlm.utils.errors import PMLMError


def python(code):
    """Run *code* in an interpreter of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env=environment, capture_output=True, text=True, timeout=600
    )


def test_applying_twice_changes_nothing():
    names = list(ORIGINALS)
    before = data_utils.batch_by_size, checkpoint_utils.load_checkpoint_to_cpu, len(warnings.filters)
    apply.apply()
    assert (data_utils.batch_by_size, checkpoint_utils.load_checkpoint_to_cpu, len(warnings.filters)) == before
    assert list(ORIGINALS) == names
    assert not any(hasattr(original, "pmlm_original") for original in ORIGINALS.values())


@pytest.mark.parametrize("forgotten", ["fairseq_pmlm.fairseq_patches.apply", "fairseq_pmlm.fairseq_patches"])
def test_importing_twice_is_harmless(forgotten):
    run = python(f"""
        import importlib, sys, warnings
        import fairseq_pmlm.tasks
        import fairseq_pmlm.fairseq_patches.apply as first
        from fairseq.data import data_utils

        before, filters = dict(first.ORIGINALS), len(warnings.filters)
        for name in [name for name in sys.modules if name.startswith({forgotten!r})]:
            del sys.modules[name]
        second = importlib.import_module("fairseq_pmlm.fairseq_patches.apply")
        second.apply()
        # the originals are patched again, never the patches
        assert second is not first and second.ORIGINALS == before
        assert data_utils.batch_by_size.pmlm_original is before["fairseq.data.data_utils.batch_by_size"]
        assert len(warnings.filters) == filters
        print("twice: fine", len(second.ORIGINALS))
        """)
    assert run.stdout.strip() == f"twice: fine {len(ORIGINALS)}", run.stderr


class Owner:
    @staticmethod
    def said():
        return ["original"]


class Heir(Owner):
    """Has its function from its base, as tasks of fairseq's do."""


def add(word):
    return lambda original: lambda: [word, *original()]


@pytest.fixture
def nothing_patched(monkeypatch):
    monkeypatch.setattr(replace, "ORIGINALS", {})


def test_patches_of_one_function_add_up(monkeypatch):
    original = Owner.said
    monkeypatch.setattr(Owner, "said", staticmethod(original))  # restores it
    for _ in range(2):  # the second time as after a re-import, which remembers nothing
        monkeypatch.setattr(replace, "ORIGINALS", {})
        patches = [Patch(Owner, "said", ['"original"'], add(word)) for word in ("first", "second")]
        assert install(patches) == []
        assert Owner.said() == ["second", "first", "original"]
        assert list(replace.ORIGINALS.values()) == [original]


def test_a_patch_that_fails_leaves_nothing_patched(nothing_patched):
    def fail(original):
        raise RuntimeError("no such thing")

    before = dict(vars(Owner)), dict(vars(Heir))
    patches = [Patch(owner, "said", [], add(word)) for owner in (Owner, Heir) for word in ("first", "second")]
    for patch in (Patch(Owner, "said", [], fail), Patch(Heir, "said", [], fail)):
        with pytest.raises(PMLMError, match=rf"^{patch.full_name}: RuntimeError: no such thing$"):
            install([*patches, patch])
        assert (dict(vars(Owner)), dict(vars(Heir))) == before
        assert replace.ORIGINALS == {}
    assert Owner.said() == Heir.said() == ["original"]


def test_what_is_missing_or_other_is_named(nothing_patched, monkeypatch):
    monkeypatch.setattr(Owner, "said", staticmethod(Owner.said))
    unexpected = install([Patch(Owner, "none", [], add("x")), Patch(Owner, "said", ["other source"], add("first"))])
    assert [name.rpartition(".")[2] for name in unexpected] == ["none", "said"]
    assert Owner.said() == ["first", "original"]


@pytest.mark.parametrize(
    ("owner", "name", "broken", "told"),
    [
        ("fairseq.trainer", "Trainer", None, "ImportError: cannot import name 'Trainer' from"),  # no such place
        ("fairseq.trainer.Trainer", "load_checkpoint", 1, "Trainer.load_checkpoint: TypeError: 1 is not a callable"),
    ],
)
def test_all_patches_or_none(owner, name, broken, told):
    """A patch that cannot be made stops the import, however often it is tried, and fairseq stays as it was."""
    run = python(f"""
        import pkgutil
        import fairseq.trainer
        from fairseq import checkpoint_utils
        from fairseq.data import data_utils

        owner = pkgutil.resolve_name({owner!r})
        whole = getattr(owner, {name!r})
        setattr(owner, {name!r}, {broken!r}) if {broken!r} else delattr(owner, {name!r})
        before = [checkpoint_utils.load_checkpoint_to_cpu, data_utils.batch_by_size]
        for _ in range(2):
            try:
                import fairseq_pmlm.tasks
            except Exception as error:
                print(error)
            assert [checkpoint_utils.load_checkpoint_to_cpu, data_utils.batch_by_size] == before
        setattr(owner, {name!r}, whole)
        import fairseq_pmlm.tasks
        assert hasattr(data_utils.batch_by_size, "pmlm_original")
        from fairseq_pmlm.fairseq_patches.replace import ORIGINALS
        print(len(ORIGINALS))
        """)
    *errors, count = run.stdout.splitlines()
    assert count == str(len(ORIGINALS)), run.stderr
    assert len(errors) == 2
    for error in errors:
        assert error.startswith("this fairseq is not one that fairseq_pmlm can patch, and was left as it was (")
        assert told in error


def worker(queue):
    batches = data_utils.batch_by_size(range(9), lambda i: 1, required_batch_size_multiple=8)
    lengths = [len(batch) for batch in batches]
    queue.put((len(ORIGINALS), lengths, hasattr(data_utils.batch_by_size, "pmlm_original")))


@pytest.mark.slow
def test_spawned_worker_is_patched():
    context = torch.multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    process = context.Process(target=worker, args=(queue,))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert queue.get() == (len(ORIGINALS), [8, 1], True)


BLOCKED = """
    import sys

    class Block:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] == {blocked!r}:
                raise {error}

    sys.meta_path.insert(0, Block())
    import fairseq_pmlm.tasks
    """


@pytest.mark.parametrize(
    ("blocked", "error", "line"),
    [
        ("fairseq", "ModuleNotFoundError(f'No module named {name}', name=name)", "fairseq is not installed"),
        ("hydra", "ModuleNotFoundError(f'No module named {name}', name=name)", "fairseq needs hydra, which is not"),
        ("omegaconf", "ModuleNotFoundError(f'No module named {name}', name=name)", "fairseq needs omegaconf, which is"),
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
    assert issubclass(apply.MissingFairseqError, ImportError)


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

        import fairseq_pmlm.tasks
        batches = data_utils.batch_by_size(range(9), lambda i: 1, max_sentences=8, required_batch_size_multiple=8)
        print([len(batch) for batch in batches])
        """)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "[8, 1]"
    (warning,) = [line for line in run.stderr.splitlines() if "Warning" in line]
    assert "fairseq.data.data_utils.batch_by_size" in warning
    assert "fairseq.checkpoint_utils.load_ema_from_checkpoint" in warning
    assert "load_checkpoint_to_cpu" not in warning


def test_user_dir_is_known_by_any_path(tmp_path, monkeypatch):
    """Also as seen from the folder around fairseq's own, as where both are installed; another copy is refused."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "site/fairseq").mkdir(parents=True)
    (tmp_path / "site/fairseq_pmlm").symlink_to(ROOT / "fairseq_pmlm")
    (tmp_path / "copies/fairseq_pmlm").mkdir(parents=True)

    def give(path):
        utils.import_user_module(argparse.Namespace(user_dir=path))

    for path in (None, ROOT / "fairseq_pmlm", f"{ROOT}/tests/../fairseq_pmlm", "site/fairseq_pmlm"):
        give(path and str(path))
    with pytest.raises(FileNotFoundError):
        give("fairseq_pmlm")
    monkeypatch.setattr(utils, "__file__", str(tmp_path / "site/fairseq/utils.py"))
    give("fairseq_pmlm")
    with pytest.raises(ImportError, match="not globally unique"):
        give("copies/fairseq_pmlm")


def test_readers_end_before_python_does():
    code = """
import atexit, threading, time
from fairseq_pmlm.fairseq_patches import apply

apply.apply()
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
atexit._run_exitfuncs()  # what Python does when it ends
assert not readers[0].is_alive()
print("stopped")
"""
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "stopped"
