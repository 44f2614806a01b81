"""What pip installs: the metadata, the extras, the wheel, and the main job with installed commands alone."""

import ast
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest
from commands import OPTIMIZER, PRETRAIN, ROOT, SEQ2SEQ, sentences

import fairseq_pmlm
from fairseq_pmlm.criterions.sentence_prediction import compute
from fairseq_pmlm.scoring.bleu import score_bleu, score_chrf
from fairseq_pmlm.scoring.meteor import score_meteor
from fairseq_pmlm.scoring.rouge import score_rouge
from fairseq_pmlm.scoring.statistics import text_statistics
from fairseq_pmlm.utils.errors import PMLMError
from fairseq_pmlm.utils.optional import EXTRAS, require

PACKAGE = ROOT / "fairseq_pmlm"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
VERSION = ast.literal_eval(re.search(r"__version__ = (.*)", (PACKAGE / "_version.py").read_text())[1])
OPTIONAL = PROJECT["optional-dependencies"]


def names(requirements):
    """The packages of *requirements*, and of the extras of ours among them, without versions."""
    found = set()
    for requirement in requirements:
        name, extras = re.match(r"([\w.-]+)(?:\[(.*?)\])?", requirement).groups()
        if name == PROJECT["name"]:
            found |= names(r for extra in extras.split(",") for r in OPTIONAL[extra])
        else:
            found.add(name)
    return found


def imports():
    """{top-level module that is not ours: files of the package with a statement that imports it}."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and not node.level:
                modules = [node.module]
            else:
                modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for module in modules:
                top = module.partition(".")[0]
                if top not in sys.stdlib_module_names and top != "fairseq_pmlm":
                    found.setdefault(top, set()).add(str(path.relative_to(PACKAGE)))
    return found


def test_every_import_is_a_dependency_or_of_an_extra():
    installed = importlib.metadata.packages_distributions()
    dependencies = {name.lower() for name in names(PROJECT["dependencies"])}
    for module, files in imports().items():
        distributions = {name.lower().replace("_", "-") for name in installed.get(module, [module])}
        assert distributions & dependencies or module.removesuffix("_cli") in EXTRAS, (module, files)


def test_what_is_optional_is_imported_late():
    """But for what commands import as a whole when they run; cli/main.py says what is missing there."""
    found = imports()
    for module in EXTRAS.keys() - {"fairseq", "hydra", "omegaconf"}:
        files = {file for file in found.get(module, ()) if not file.startswith(("cli/", "reporting/"))}
        assert not files, f"{module} in {files}: see utils/optional.py"


def test_extras_bring_what_is_missing():
    for package, extra in EXTRAS.values():
        brought = names(OPTIONAL[extra])
        assert package in brought or f"ve-{package}" in brought


def test_one_version():
    assert fairseq_pmlm.__version__ == VERSION
    assert [path for path in PACKAGE.rglob("*.py") if re.search(r"^__version__ =", path.read_text(), re.M)] == [
        PACKAGE / "_version.py"
    ]


def test_types_that_are_ignored_say_why():
    """At most 20 in all, each with its code and its reason."""
    lines = [
        f"{path}: {line}"
        for path in PACKAGE.rglob("*.py")
        for line in path.read_text().splitlines()
        if re.search(r"#\s*type:\s*ignore", line)
    ]
    assert len(lines) <= 20
    assert [line for line in lines if not re.search(r"# type: ignore\[[\w, -]+\]  # \w", line)] == []


@pytest.fixture
def forget(monkeypatch):
    """forget(NAME, ...): the packages are imported again where they are needed next."""

    def forget(*names):
        for module in [module for module in sys.modules if module.partition(".")[0] in names]:
            monkeypatch.delitem(sys.modules, module)

    return forget


@pytest.fixture
def without(monkeypatch, forget):
    """without(NAME, ...): the packages cannot be imported, as where they are not installed."""

    def block(*names):
        class Finder:
            def find_spec(self, name, path=None, target=None):
                if name in names:
                    raise ModuleNotFoundError(f"No module named {name!r}", name=name)

        forget(*names)
        monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])

    return block


TEXTS = [["the cat sat ."], [["the cat sat down ."]]]
NEEDS = {
    "ROUGE": ("rouge_score", lambda: score_rouge(*TEXTS, tokenizer="none")),
    "the tokenizer 'default'": ("rouge_score", lambda: text_statistics(*TEXTS, tokenizer="default")),
    "BLEU": ("sacrebleu", lambda: score_bleu(*TEXTS)),
    "chrF": ("sacrebleu", lambda: score_chrf(*TEXTS)),
    "METEOR 'nltk'": ("nltk", lambda: score_meteor(*TEXTS, implementation="nltk")),
    "the metric f1": ("sklearn", lambda: compute("f1", [0, 1], [0, 1])),
    "the metric spearman": ("scipy", lambda: compute("spearman", [0, 1], [0, 1])),
    "a chart": ("matplotlib", lambda: require("matplotlib.pyplot", "a chart")),
}


@pytest.mark.parametrize("what", NEEDS)
def test_one_line_says_what_to_install(what, without):
    module, call = NEEDS[what]
    without(module)
    package, extra = EXTRAS[module]
    with pytest.raises(PMLMError) as error:
        call()
    assert str(error.value) == f'{what} needs {package}, which is not installed: pip install "fairseq-pmlm[{extra}]"'


def test_rouge_needs_nltk_too(without, forget):
    """rouge-score imports it, whatever is asked for."""
    forget("rouge_score")
    without("nltk")
    with pytest.raises(PMLMError, match=r"^ROUGE needs nltk, "):
        score_rouge(*TEXTS, tokenizer="none")


def test_what_is_broken_is_not_taken_for_missing(forget, tmp_path, monkeypatch):
    forget("matplotlib")
    (tmp_path / "matplotlib").mkdir()
    (tmp_path / "matplotlib/__init__.py").write_text("import no_such_module\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        require("matplotlib.pyplot", "a chart")
    (tmp_path / "matplotlib/__init__.py").write_text("")
    with pytest.raises(ModuleNotFoundError, match=r"matplotlib\.pyplot"):
        require("matplotlib.pyplot", "a chart")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, made from a copy: what an earlier build has left in the checkout does not get into it."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(PACKAGE, folder / "source/fairseq_pmlm", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source" / name)
    for name in ("tests", "scripts", "benchmarks", "experiments"):  # which must not get into it
        (folder / "source" / name).mkdir()
        (folder / "source" / name / "__init__.py").write_text("")
    pip("wheel", "--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, folder / "source")
    (path,) = folder.glob("*.whl")
    return path


def pip(*arguments):
    options = ["--quiet", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", *options, *map(str, arguments)], check=True)


@pytest.mark.slow
def test_wheel(wheel):
    assert wheel.name == f"fairseq_pmlm-{VERSION}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        files = set(archive.namelist())
        info = f"fairseq_pmlm-{VERSION}.dist-info"
        metadata, entries = (archive.read(f"{info}/{name}").decode() for name in ("METADATA", "entry_points.txt"))
    modules = {f"fairseq_pmlm/{path.relative_to(PACKAGE).as_posix()}" for path in PACKAGE.rglob("*.py")}
    assert {file for file in files if ".dist-info/" not in file} == modules | {"fairseq_pmlm/py.typed"}
    assert "pmlm = fairseq_pmlm.cli.main:main" in entries.splitlines()
    assert f"\nVersion: {VERSION}\n" in metadata
    assert "\nLicense-Expression: MIT\n" in metadata
    assert {line.removeprefix("Provides-Extra: ") for line in metadata.splitlines() if "Provides-Extra" in line} == {
        *OPTIONAL
    }


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A virtual environment that holds fairseq, what both need, and our wheel; returns its folder.

    The other packages are links to those of this environment, but for matplotlib, which the main job does not need.
    fairseq is a copy: ``--user-dir fairseq_pmlm`` looks for us beside fairseq's own folder.
    """
    import fairseq

    folder = tmp_path_factory.mktemp("installed") / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    left_out = re.compile(r"fairseq_pmlm|__editable__|fairseq(_cli)?$|matplotlib|mpl_toolkits|.*\.pth$")
    for path in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if not left_out.match(path.name):
            (site / path.name).symlink_to(path)
    for name in ("fairseq", "fairseq_cli"):
        source = Path(fairseq.__file__).parents[1] / name
        shutil.copytree(source, site / name, ignore=shutil.ignore_patterns("examples"))
    python = folder / "bin/python"
    for entry in importlib.metadata.entry_points(group="console_scripts"):
        if entry.value.startswith("fairseq_cli."):
            script = folder / "bin" / entry.name
            start = f"from {entry.module} import {entry.attr} as main\nif __name__ == '__main__':\n    main()\n"
            script.write_text(f"#!{python}\n{start}")
            script.chmod(0o755)
    pip("--python", python, "install", "--no-index", "--no-deps", wheel)
    return folder


@pytest.fixture(scope="module")
def run(installed, tmp_path_factory):
    """run(COMMAND, ...) in a folder outside the checkout; returns what it printed, or, if it is to fail, its errors."""
    folder = tmp_path_factory.mktemp("elsewhere")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
    environment |= {"PATH": f"{installed / 'bin'}:/usr/bin:/bin", "OMP_NUM_THREADS": "1"}

    def run(command, *arguments, status=0):
        done = subprocess.run(
            [installed / "bin" / command, *map(str, arguments)],
            cwd=folder, env=environment, capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        assert done.returncode == status, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stderr if status else done.stdout

    run.folder = folder
    return run


@pytest.mark.slow
def test_the_installed_package_is_the_wheel_s(run, installed):
    where = run("python", "-c", "import fairseq_pmlm; print(fairseq_pmlm.__file__, fairseq_pmlm.__version__)")
    path, version = where.split()
    assert installed in Path(path).parents
    assert version == VERSION


@pytest.fixture(scope="module")
def corpus(run):
    """A data directory, ``data-bin/corpus``, made by ``pmlm prepare text``."""
    (run.folder / "text.txt").write_text("\n\n".join(sentences(300, 1)) + "\n")
    run("pmlm", "prepare", "text", "--text", "text.txt", "--vocab-size", 40, "--destdir", "data-bin/corpus")


SIZE = ["--max-tokens", 1500, "--max-update", 10]


@pytest.mark.slow
def test_the_main_job_with_installed_commands(run, corpus):
    folder = run.folder
    for name, count in (("train", 120), ("valid", 20), ("test", 20)):
        rows = [{"src": text, "tgt": " ".join(text.split()[:4])} for text in sentences(count, len(name))]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run(
        *("fairseq-train", "data-bin/corpus", "--user-dir", "fairseq_pmlm"),
        *(*PRETRAIN, *OPTIMIZER, *SIZE, "--save-dir", "pretrained"),
    )
    run(
        *("pmlm", "prepare", "pairs", "--train", "train.jsonl", "--valid", "valid.jsonl", "--test", "test.jsonl"),
        *("--vocab-from", "data-bin/corpus", "--destdir", "data-bin/pairs"),
    )
    run(
        *("fairseq-train", "data-bin/pairs", "--user-dir", "fairseq_pmlm"),
        *(*SEQ2SEQ, *OPTIMIZER, *SIZE, "--save-dir", "tuned"),
        *("--finetune-from-model", "pretrained/checkpoint_last.pt"),
    )
    output = run(
        *("fairseq-generate", "data-bin/pairs", "--user-dir", "fairseq_pmlm", "--task", "pmlm_seq2seq", "--cpu"),
        *("--path", "tuned/checkpoint_last.pt", "--gen-subset", "test", "--beam", 2, "--max-len-b", 8),
    )
    (folder / "generate.txt").write_text(output)
    table = run(
        *("pmlm", "score", "--metric", "rouge", "--hyp-from-generate", "generate.txt"),
        *("--ref", "data-bin/pairs/test.tgt.txt", "--bootstrap", 10),
    )
    assert "rougeL" in table
    assert "\n20 segments" in table
    assert f"|pmlm:{VERSION}" in table


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_user_dir_is_found_by_path_and_by_spawned_processes(processes, run, corpus, installed):
    (path,) = installed.glob("lib/python*/site-packages/fairseq_pmlm")
    user_dir = path if processes == 1 else "fairseq_pmlm"
    run(
        *("fairseq-train", "data-bin/corpus", "--user-dir", user_dir, "--distributed-world-size", processes),
        *(*PRETRAIN, *OPTIMIZER, *SIZE, "--max-update", 2, "--save-dir", f"by-{processes}"),
    )
    assert (run.folder / f"by-{processes}/checkpoint_last.pt").is_file()


@pytest.mark.slow
def test_user_dir_is_found_by_hydra(run, corpus):
    """fairseq-hydra-train works in a folder of its own."""
    shutil.copy(ROOT / "examples/pretrain.yaml", run.folder)
    values = {f"model.encoder_{name}": 32 for name in ("embed_dim", "ffn_embed_dim")}
    values |= {"model.encoder_layers": 1, "model.encoder_attention_heads": 2, "model.max_positions": 64}
    values |= {"task.data": run.folder / "data-bin/corpus", "task.tokens_per_sample": 32, "dataset.max_tokens": 600}
    values |= {"common.cpu": "true", "common.bf16": "false", "common.tensorboard_logdir": "null"}
    values |= {"dataset.num_workers": 0, "optimization.update_freq": "[1]", "optimization.max_update": 2}
    values |= {"hydra.run.dir": "elsewhere", "checkpoint.save_dir": run.folder / "by-hydra"}
    run(
        *("fairseq-hydra-train", "--config-dir", run.folder, "--config-name", "pretrain"),
        *(f"{name}={value}" for name, value in values.items()),
    )
    assert (run.folder / "by-hydra/checkpoint_last.pt").is_file()


@pytest.mark.slow
def test_help_and_module(run):
    for command in (["pmlm"], ["python", "-m", "fairseq_pmlm"]):
        assert "prepare" in run(*command, "--help")


@pytest.mark.slow
def test_one_line_says_that_charts_need_an_extra(run):
    (run.folder / "train.log").write_text('{"train_loss": "3", "train_num_updates": "1"}\n')
    for command in (["report", "train.log"], ["show-mask"]):
        said = run("pmlm", *command, status=1)
        assert said.startswith(f"fairseq_pmlm: error: pmlm {command[0]} needs matplotlib, which is not installed: ")
        assert "fairseq-pmlm[plot]" in said
        assert len(said.splitlines()) == 1
