"""A trained model is used without fairseq, to the bit as with it; and with fairseq, in any order of imports."""

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import textwrap

import pytest
from commands import ROOT
from test_old_checkpoints import DATA, EXPECTED, OLD

# What only fairseq and the extras bring: here, nothing of it can be imported.
ABSENT = """\
import sys

ABSENT = {"fairseq", "fairseq_cli", "hydra", "omegaconf", "sklearn", "scipy", "nltk", "rouge_score", "sacrebleu"}
ABSENT |= {"matplotlib", "tensorboard", "transformers"}


class Finder:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Finder())
"""
# Uses a checkpoint as the documentation says, and prints every number in full.
USE = """
import json, sys

if "--with-fairseq" in sys.argv:
    import fairseq
import torch

torch.set_num_threads(1)
from fairseq_pmlm.interface import from_pretrained

name, folder, data, expected = sys.argv[1], sys.argv[2], sys.argv[3], json.load(open(sys.argv[4]))
model = from_pretrained(folder, f"{name}.pt", data)
texts = expected["sentences"]
found = {"tokens": [model.encode(text).tolist() for text in texts]}
found["decoded"] = [model.decode(model.encode(text)) for text in texts]
found["features"] = [model.extract_features(model.encode(text)).tolist() for text in texts]
found["layers"] = [x.tolist() for x in model.extract_features(model.encode(texts[0]), return_all_hiddens=True)]
if name == "pretraining":
    found["mask"] = model.fill_mask("the old <mask> saw the river .", topk=20)
    for steps in ("token", "span", "all", "ae"):
        found[steps] = model.infill("the <mask:2> saw the <mask> house <mask> .", beam=4, nbest=4, steps=steps)
    found["order"] = model.infill("the <mask:2> saw the <mask> .", order="random", seed=3)
if name == "classification":
    head = expected["head"]
    found["labels"] = model.find_head(head).labels
    found["classes"] = model.predict_texts(head, texts).tolist()
    found["pair"] = model.predict(head, model.encode(texts[0], texts[-1])).tolist()
if name == "seq2seq":
    found["texts"] = [model.generate(expected["sources"], **options) for options, _ in expected["generate"]]
    torch.manual_seed(1)
    found["sampled"] = model.generate(expected["sources"], beam=2, sampling=True, sampling_topk=20)
print(json.dumps(found))
assert ("fairseq" in sys.modules) == ("--with-fairseq" in sys.argv)
"""


def python(code, *arguments, path=(), check=True):
    """Run *code* in an interpreter of its own, with the folders *path* before the checkout; returns what it prints."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [*path, ROOT])), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        env=environment, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    if check:
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout if check else done


@pytest.fixture(scope="module")
def absent(tmp_path_factory):
    """A folder for PYTHONPATH that makes everything of :data:`ABSENT` unimportable, from the start."""
    folder = tmp_path_factory.mktemp("absent")
    (folder / "sitecustomize.py").write_text(ABSENT)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """dict.txt and the tokenizer, which is all that a model needs to be used."""
    folder = tmp_path_factory.mktemp("data")
    for name in ("dict.txt", "sentencepiece.model"):
        shutil.copy(OLD / name, folder)
    return folder


def test_everything_is_absent(absent):
    done = python("import fairseq", path=[absent], check=False)
    assert "No module named 'fairseq'" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", DATA)
def test_to_the_bit_as_with_fairseq(name, data, absent):
    arguments = [name, OLD, data, OLD / "expected.json"]
    ours = json.loads(python(USE, *arguments, path=[absent]))
    assert ours == json.loads(python(USE, *arguments, "--with-fairseq"))
    if name == "seq2seq":
        assert ours["texts"] == [texts for _, texts in EXPECTED["generate"]]
    if name == "classification":
        assert ours["labels"] == EXPECTED["labels"]


TRAIN = """
import sys

import numpy as np
import torch

from fairseq_pmlm.data import layout, masking
from fairseq_pmlm.data.collate import OBJECTIVES, collate
from fairseq_pmlm.model.config import PMLMConfig
from fairseq_pmlm.model.pmlm import PMLM, Predict
from fairseq_pmlm.tokenizers.dictionary import Dictionary

dictionary = Dictionary()
for symbol in [*"abcdefgh", "<mask>", "<pseudo>"]:
    dictionary.add_symbol(symbol)
shape = {"encoder_layers": 1, "encoder_embed_dim": 32, "encoder_ffn_embed_dim": 64, "encoder_attention_heads": 2}
torch.manual_seed(1)
model = PMLM(PMLMConfig(**shape, max_positions=16, init_std=0.1), dictionary)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
rng = np.random.default_rng(1)
types = masking.ordinary_types(dictionary)


def batch():
    \"\"\"16 times the alphabet, masked and laid out for the joint objective.\"\"\"
    samples = []
    for i in range(16):
        tokens = np.array([dictionary.bos(), *types, dictionary.eos()])
        mask = masking.draw_mask(np.isin(tokens, types), rng, mask_prob=0.3)
        shown = masking.corrupt(tokens[mask.positions], dictionary.index("<mask>"), types, rng)
        pseudo = np.full(len(shown), model.pseudo_index)
        slots = layout.pretraining_layout(tokens, np.zeros_like(tokens), mask, shown, pseudo)
        samples.append({"id": i, "slots": slots})
    return collate(samples, OBJECTIVES["ae+par"], dictionary.pad())


losses = []
for _ in range(20):
    sample = batch()
    select = sample["net_input"].pop("select")
    loss = model(sample["net_input"], Predict(select=select, target=sample["target"])).loss / len(select)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(float(loss.detach()))
assert "fairseq" not in sys.modules
print(losses)
"""


def test_the_core_alone_trains_in_a_plain_loop():
    losses = json.loads(python(TRAIN))
    assert max(losses[-3:]) < 0.3 * losses[0], losses


@pytest.mark.slow
def test_every_module_of_the_core_is_imported(absent):
    python(
        """
        import importlib, pkgutil
        import fairseq_pmlm

        names = ["fairseq_pmlm.interface", "fairseq_pmlm.data.masking", "fairseq_pmlm.data.layout"]
        for room in ("utils", "tokenizers", "checkpoints", "model", "generation"):
            package = importlib.import_module(f"fairseq_pmlm.{room}")
            names += [module.name for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
        assert len(names) > 20
        for name in names:
            importlib.import_module(name)
        """,
        path=[absent],
    )


def test_tasks_say_that_fairseq_is_missing(absent):
    done = python("import fairseq_pmlm.tasks", path=[absent], check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("fairseq_pmlm: error: fairseq is not installed")
    assert done.stderr.endswith('pip install "fairseq-pmlm[fairseq]"\n')
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("module", ["fairseq_pmlm", "fairseq_pmlm.tasks", "fairseq_pmlm.interface"])
def test_a_broken_fairseq_is_not_taken_for_an_absent_one(module, tmp_path):
    """Where it is wanted: for tasks always, for the rest if it has been imported before."""
    (tmp_path / "fairseq").mkdir()
    (tmp_path / "fairseq/__init__.py").write_text("raise ValueError('mutable default')\n")
    done = python(f"import {module}", path=[tmp_path], check=False)
    if module == "fairseq_pmlm.tasks":
        assert done.returncode == 1
        assert done.stderr.startswith("fairseq_pmlm: error: fairseq cannot be imported (ValueError: mutable default")
    else:
        assert done.returncode == 0, done.stderr
    (tmp_path / "fairseq/__init__.py").write_text("")  # it can be imported, and what we need of it cannot
    done = python(f"import fairseq; import {module}", path=[tmp_path], check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("fairseq_pmlm: error: this fairseq is not one that fairseq_pmlm can patch")
    assert len(done.stderr.splitlines()) == 1


def test_fairseq_is_not_imported():
    """Neither it nor torch: the package is there at once."""
    python("import sys; import fairseq_pmlm; assert not {'fairseq', 'torch', 'numpy'} & sys.modules.keys()")


REGISTERED = """
from fairseq import checkpoint_utils, criterions, data, models, optim, scoring, tasks
from fairseq.data import data_utils, encoders
from fairseq_pmlm.fairseq_patches import replace

import json
registries = {
    "tasks": tasks.TASK_REGISTRY, "models": models.MODEL_REGISTRY, "architectures": models.ARCH_MODEL_REGISTRY,
    "criterions": criterions.CRITERION_REGISTRY, "bpe": encoders.BPE_REGISTRY, "scorers": scoring.SCORER_REGISTRY,
    "optimizers": optim.OPTIMIZER_REGISTRY,
}
print(json.dumps({
    **{kind: sorted(map(str, registry)) for kind, registry in registries.items()},
    "patched": sorted(replace.ORIGINALS), "reader": hasattr(checkpoint_utils.load_checkpoint_to_cpu, "pmlm_original"),
}))
"""
USER_DIR = f"import argparse; utils.import_user_module(argparse.Namespace(user_dir={str(ROOT / 'fairseq_pmlm')!r}))\n"
ORDERS = {
    "fairseq first": "import fairseq, fairseq_pmlm\n",
    "a part of fairseq first": "from fairseq import checkpoint_utils\nimport fairseq_pmlm\n",
    "ours first": "import fairseq_pmlm, fairseq, fairseq_pmlm.tasks\n",
    "ours first, and its interface": "import fairseq_pmlm.interface, fairseq_pmlm.tasks\n",
    "ours first, then any part of fairseq": "import fairseq_pmlm\nfrom fairseq.data import Dictionary\n",
    "ours first, then --user-dir": f"from fairseq_pmlm import PMLMModel\nfrom fairseq import utils\n{USER_DIR}",
    "tasks alone": "import fairseq_pmlm.tasks\n",
    "a task": "from fairseq_pmlm.tasks.pmlm import PMLMTask\n",
    "--user-dir": f"from fairseq import utils\n{USER_DIR}",
    "--user-dir twice": f"from fairseq import utils\n{USER_DIR}{USER_DIR}",
    "fairseq, ours, --user-dir": f"from fairseq import utils\nimport fairseq_pmlm\n{USER_DIR}",
    "tasks, --user-dir": f"import fairseq_pmlm.tasks\nfrom fairseq import utils\n{USER_DIR}",
}


@pytest.fixture(scope="module")
def registered():
    return json.loads(python("import fairseq_pmlm.tasks\n" + REGISTERED))


def test_registered(registered):
    assert {"pmlm", "pmlm_seq2seq", "pmlm_squad"} <= set(registered["tasks"])
    assert {"pmlm", "pmlm_seq2seq", "pmlm_squad", "pmlm_sentence_prediction"} <= set(registered["criterions"])
    assert "pmlm" in registered["models"]
    assert {"pmlm_tiny", "pmlm_mini", "pmlm_small", "pmlm_base", "pmlm_large"} <= set(registered["architectures"])
    assert {"pmlm_wordpiece"} <= set(registered["bpe"])
    assert "rouge" in registered["scorers"]
    assert "fairseq.data.data_utils.batch_by_size" in registered["patched"]
    assert registered["reader"]


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS)
def test_any_order_registers_and_patches_the_same(order, registered):
    assert json.loads(python(ORDERS[order] + REGISTERED)) == registered


def read(path, queue):
    """What a spawned process sees of a checkpoint; see below."""
    from fairseq import checkpoint_utils, tasks

    import fairseq_pmlm.tasks

    state = checkpoint_utils.load_checkpoint_to_cpu(str(path))
    queue.put((sorted(state["model"])[:1], "pmlm" in tasks.TASK_REGISTRY, fairseq_pmlm.__file__))


@pytest.mark.slow
def test_spawned_worker():
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    process = context.Process(target=read, args=(OLD / "seq2seq.pt", queue))
    process.start()
    process.join(100)
    assert process.exitcode == 0
    (key,), registered, file = queue.get()
    assert key.startswith("backbone.")
    assert registered
    assert file == str(ROOT / "fairseq_pmlm/__init__.py")
