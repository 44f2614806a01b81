"""The corpus builder: cleaning, choosing, splitting, writing; on packages made on the spot."""

import json
import sys
import textwrap
from collections import Counter

import docstring_pairs
import docstring_text
import docstrings
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairseq_pmlm.utils.errors import PMLMError

BODY = "The mean of all given values is taken, and values that are missing count as zero in it."


def clean(text):
    return docstring_text.clean(textwrap.dedent(text))


def body_of(text):
    document = clean(f"Summarize the things.\n\n{textwrap.dedent(text)}")
    return " ".join([*document.prose, *document.fields])


def entry(summary, body=BODY, package="p", module="p.m", name="f"):
    return docstring_pairs.Entry(package, module, name, summary, [body], [])


def reasons(entries, **options):
    dropped = Counter()
    pairs = docstring_pairs.choose_pairs(
        entries, dropped=dropped, package_share=options.pop("package_share", 1), **options
    )
    return pairs, +dropped


# ---------------------------------------------------------------------------------------------------------- cleaning


def test_summary_and_body():
    document = clean("Take the mean.\n\n    First line of it\n    goes on here.  Another sentence.\n    ")
    assert document == ("Take the mean.", ["First line of it goes on here.", "Another sentence."], [])


@pytest.mark.parametrize(
    ("marked", "plain"),
    [
        ("Calls :func:`~os.path.join` on it.", "Calls join on it."),
        ("Calls :py:func:`os.path.join` on it.", "Calls os.path.join on it."),
        ("Calls :func:`the joiner <os.path.join>` on it.", "Calls the joiner on it."),
        ("Takes ``x`` or `y` or :class:``dict`` here.", "Takes x or y or dict here."),
        ("This is **very** *important* to know.", "This is very important to know."),
        ("Read `the guide <https://a.b/c>`_ first please.", "Read the guide first please."),
        ("This is known [1]_ for long.", "This is known for long."),
        ("Matches :math:`x` with the rest.", "Matches x with the rest."),
        ("Like .Figure.draw does it always.", "Like Figure.draw does it always."),
    ],
)
def test_inline_markup(marked, plain):
    assert docstring_text.inline(marked) == plain


@pytest.mark.parametrize(
    "gone",
    [
        ">>> mean([1, 2])\n1.5",
        "Traceback (most recent call last):\n    ...\nValueError: this is quite wrong here",
        ".. math::\n\n   a = b + c and so on",
        ".. code-block:: python\n\n   the mean of a list",
        ".. versionadded:: 1.2\n   The keyword was added here.",
        ".. [1] Someone wrote all of this before.",
        "=====  =====\nName   Meaning\n=====  =====\nfoo    a thing of sorts\n=====  =====",
        "+-----+-----+\n| one | two |\n+-----+-----+",
        "Examples\n--------\nHere is how we take a mean.",
        "Example:\n    Here is how we take a mean.",
        "See https://example.org for all of it.",
        r"It minimizes \sum over all the things.",
        "It inherits from %(klass)s in all ways.",
        "This was shown by the authors in [2]_.",
        "Author: Some Body of this place",
        ":rtype: list of things",
    ],
)
def test_dropped_constructs(gone):
    assert body_of(f"Before it.\n\n{gone}\n\n") == "Before it."


@pytest.mark.parametrize(
    ("block", "kept"),
    [
        (".. note::\n\n   Keep in mind that this is slow.", "Keep in mind that this is slow."),
        ("Notes\n-----\nThe algorithm is quite old.", "The algorithm is quite old."),
        ("Parameters\n----------\nx : int\n    The value to take.", "x: The value to take."),
        ("Args:\n    x (int): The value\n        to take.", "x: The value to take."),
        (":param int x: The value to take.", "x: The value to take."),
        ("Returns\n-------\nfloat\n    The mean of it.", "The mean of it."),
        ("Returns:\n    The mean of it.", "The mean of it."),
        ("There are two:\n\n- the first one\n- the second one", "There are two: the first one. the second one."),
        ("It works. Like so::\n\n    the mean of a list\n\nAnd that is all.", "It works. And that is all."),
        ("The mean is given by\n\n.. math:: x\n\nwhere n is a count. It is fast.", "It is fast."),
    ],
)
def test_kept_constructs(block, kept):
    assert body_of(block) == kept


@pytest.mark.parametrize(
    ("text", "summary"),
    [
        ("mean(x, y) -> float\n\nTake the mean.\n\nMore.", "Take the mean."),
        ("package.module\n~~~~~~~~~~~~~~\n\nTake the mean.\n\nMore.", "Take the mean."),
        ("Take the mean.\nIt goes on without a blank line.", "Take the mean."),
        ("Take the mean\nof all values.\n\nMore.", ""),  # a summary line is one line
        ("A title of sorts\n================\n\nMore.", "A title of sorts."),
        ("One sentence of it and then\nthe next. Another one here.\n\nMore.", ""),
        ("Parameters\n----------\nx : int\n    The value.", ""),
        (">>> mean([1, 2])\n1.5", ""),
        ("Use one of these:\n\n- a\n- b", ""),
        ("The method of [1]_.\n\nMore.", ""),
        ("The old method of\n\n    Somebody (2000)", ""),
        ("\n\n", ""),
    ],
)
def test_summary_line(text, summary):
    assert clean(text).summary == summary


def test_sentences_know_abbreviations():
    assert docstring_text.sentences("Uses e.g. Numpy. It is by J. Doe et al. Then (see Fig. 3) more.") == [
        "Uses e.g. Numpy.",
        "It is by J. Doe et al. Then (see Fig. 3) more.",
    ]


@given(st.text(alphabet="ab .:`*_-=>|[]()\n\\<@#1\t", max_size=200))
def test_clean_takes_anything(text):
    document = docstring_text.clean(text)
    assert all("\n" not in line and line.strip() for line in [*document.prose, *document.fields])


# ---------------------------------------------------------------------------------------------------------- files


def make_package(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")


def test_find_sources_skips_tests_and_copies(tmp_path):
    names = ["b/c.py", "b/__init__.py", "a.py", "b/tests/x.py", "b/_vendor/y.py", "b/test_z.py", "b/d_pb2.py"]
    names += ["torch/testing/_internal/q.py", "fairseq_pmlm/z.py", "b-1.0.dist-info/w.py", "site-packages/v.py"]
    make_package(tmp_path, dict.fromkeys(names, ""))
    assert [(s.package, s.module) for s in docstrings.find_sources(tmp_path)] == [("a", "a"), ("b", "b"), ("b", "b.c")]
    assert {s.package for s in docstrings.find_sources(tmp_path, "stdlib")} == {"stdlib"}


def test_read_source(tmp_path):
    make_package(
        tmp_path,
        {
            "good.py": '''
                """Module line here."""
                class A:
                    """Class line here."""
                    def f(self):
                        """Method line here."""
                        def g():
                            """Inner line here."""
                if True:
                    async def h():
                        """Async line here."""
                add_newdoc("numpy", "ndarray", """Added line here.""")
                raise SystemExit("importing this would end the test")
            ''',
            "bad.py": "def f(:\n",
            "made.py": '# Generated by a tool\n"""Some line here."""\n',
        },
    )
    found = {s.module: docstrings.read_source(s) for s in docstrings.find_sources(tmp_path)}
    assert [(e.name, e.summary.split()[0]) for e in found["good"][0]] == [
        ("", "Module"),
        ("A", "Class"),
        ("A.f", "Method"),
        ("A.f.g", "Inner"),
        ("h", "Async"),
        ("numpy.ndarray", "Added"),
    ]
    assert found["bad"] == ([], "does not parse")
    assert found["made"] == ([], "generated")


# ---------------------------------------------------------------------------------------------------------- choosing


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ([entry("")], "no summary line"),
        ([entry("Mean values.")], "summary not of 3 to 30 words"),
        ([entry("the mean of values " * 8)], "summary not of 3 to 30 words"),
        ([entry("Take the mean value.", "It is the mean.")], "less than 12 words of prose in the body"),
        ([entry("All given values.")], "summary repeated in the body"),
        ([entry("Open a network socket.")], "summary not supported by the body"),
        ([entry("Mean of values 1."), entry("MEAN of: values 2", BODY + " Really.")], "summary seen before"),
        ([entry("Mean of values."), entry("Values and their mean.")], "body seen before"),
    ],
)
def test_drop_reasons(entries, reason):
    pairs, dropped = reasons(entries)
    assert dropped == {reason: 1}
    assert len(pairs) == len(entries) - 1


def test_body_is_cut_and_counted():
    pairs, dropped = reasons([entry("Take the mean of values.", BODY + " and so on" * 50)], max_body_words=20)
    assert len(pairs[0].src.split()) == 20
    assert dropped == {"(kept, body cut)": 1}


def test_templates_are_capped_per_package():
    words = [f"{a}{b}" for a in "abcdefg" for b in "uvwxyz"]
    entries = [
        entry(f"The {w} mean of values.", f"{w} values have a {w} mean in {package}: {BODY}", package)
        for package in "pq"
        for w in words
    ]
    entries = [e._replace(summary=e.summary.replace("mean", f"{e.package} mean")) for e in entries]
    pairs, dropped = reasons(entries, per_template=5, min_support=0)
    assert Counter(p.entry.package for p in pairs) == {"p": 5, "q": 5}
    assert dropped["template used up in its package"] == len(entries) - 10


def test_packages_are_capped():
    pairs = [
        docstring_pairs.Pair(entry(f"{package} {i}", package=package, name=str(i)), "", "")
        for package, n in (("big", 100), ("p", 20), ("q", 20), ("r", 20), ("s", 20))
        for i in range(n)
    ]
    dropped = Counter()
    kept = Counter(p.entry.package for p in docstring_pairs.cap_packages(pairs, 0.25, dropped))
    assert kept == {"big": 26, "p": 20, "q": 20, "r": 20, "s": 20}
    assert dropped == {"package above its share": 74}


@given(st.lists(st.integers(0, 60), max_size=6), st.sampled_from([0.25, 0.5, 1]))
def test_cap_holds(sizes, share):
    pairs = [
        docstring_pairs.Pair(entry("", package=str(k), name=str(i)), "", "")
        for k, n in enumerate(sizes)
        for i in range(n)
    ]
    kept = docstring_pairs.cap_packages(pairs, share, Counter())
    most = max(Counter(p.entry.package for p in kept).values(), default=0)
    packages = sum(n > 0 for n in sizes)
    assert most <= max(1, share * len(kept)) or packages * share < 1
    assert len({p.entry.package for p in kept}) == packages
    assert [p for p in pairs if p in kept] == kept


# ---------------------------------------------------------------------------------------------------------- splitting


def test_split_shares_and_stability():
    count = Counter(docstring_pairs.split_of(f"package.module{i}") for i in range(5000))
    assert 0.82 < count["train"] / 5000 < 0.86
    assert 0.03 < count["valid"] / 5000 < 0.05
    assert docstring_pairs.split_of("asyncio.events") == docstring_pairs.split_of("asyncio.events")


def module_in(split, k=0):
    return [m for m in (f"p.m{i}" for i in range(500)) if docstring_pairs.split_of(m) == split][k]


def test_copies_of_training_bodies_are_not_held_out():
    pairs = [
        docstring_pairs.Pair(entry("A", module=module_in("train")), BODY, "A"),
        docstring_pairs.Pair(entry("B", module=module_in("test")), BODY + " Almost.", "B"),
        docstring_pairs.Pair(entry("C", module=module_in("test")), "Something entirely different stands here.", "C"),
    ]
    dropped = Counter()
    splits = docstring_pairs.split_pairs(pairs, dropped)
    assert [p.tgt for p in splits["test"]] == ["C"]
    assert dropped == {"held out, but copied in training": 1}


def test_training_text_keeps_secrets():
    secret = docstring_pairs.Pair(entry("Mean of values.", module=module_in("test")), BODY, "Mean of values.")
    train = module_in("train")
    entries = [
        secret.entry,
        entry("Something else.", module=module_in("valid")),
        entry("A copy of it.", module=train),
        entry("Mean of values.", "Its own long story, which nobody else tells in this way.", module=train),
        entry("Public line here.", "Another story, which can be told to everybody without any harm.", module=train),
        entry("Public line here.", "Another story, which can be told to everybody without any harm.", module=train),
    ]
    dropped = Counter()
    documents = docstring_pairs.training_text(entries, [secret], dropped)
    assert [lines[0].split()[0] for lines in documents] == ["Its", "Public"]
    assert dropped == {"text copied in held-out pairs": 1, "text seen before": 1}


# ---------------------------------------------------------------------------------------------------------- main

WORDS = [
    "apple",
    "bridge",
    "candle",
    "desert",
    "engine",
    "forest",
    "garden",
    "harbor",
    "island",
    "jungle",
    "kettle",
    "ladder",
    "market",
    "needle",
]


@pytest.fixture
def installation(tmp_path, monkeypatch):
    """A handful of packages, large enough to fill all splits."""
    root, files = tmp_path / "lib", {}
    for i, first in enumerate(WORDS):
        for j, second in enumerate(WORDS):
            files[f"{first}/{second}.py"] = f'''
                def f():
                    """Turn every {first} into {second} number {i}x{j}.

                    Where {first} comes first, a {second} follows, as {WORDS[i - 3]} says of {WORDS[j - 5]} to
                    {second} and {WORDS[i - 1]} when the {WORDS[j - 7]} {first} comes to {WORDS[i - 7]} of late.
                    """
            '''
    files["broken.py"] = "def f(:\n"
    make_package(root, files)
    monkeypatch.setattr(docstrings, "installed_sources", lambda: list(docstrings.find_sources(root)))
    return root


def run(destdir, *options):
    assert docstrings.main(["--destdir", str(destdir), "--sotu", "none", "--processes", "2", *options]) == 0
    return {p.relative_to(destdir).as_posix(): p.read_text() for p in sorted(destdir.rglob("*")) if p.is_file()}


def test_main(installation, tmp_path, capsys):
    written = run(tmp_path / "one")
    assert "does not parse" in capsys.readouterr().out
    assert set(written) == {"pairs.train.jsonl", "pairs.valid.jsonl", "pairs.test.jsonl", "text/docstrings.txt"}
    splits = {s: [json.loads(x) for x in written[f"pairs.{s}.jsonl"].splitlines()] for s in docstring_pairs.SPLITS}
    modules = {s: {row["id"].split(":")[0] for row in rows} for s, rows in splits.items()}
    assert all(docstring_pairs.split_of(m) == s for s in modules for m in modules[s])
    assert not {row["tgt"] for row in splits["train"]} & {row["tgt"] for row in splits["test"]}
    lines = set(written["text/docstrings.txt"].splitlines())
    assert "" in lines
    assert not lines & {row["tgt"] for s in ("valid", "test") for row in splits[s]}
    assert lines & {row["tgt"] for row in splits["train"]}
    assert run(tmp_path / "two", "--processes", "1") == written
    assert set(run(tmp_path / "three", "--text-only")) == {"text/docstrings.txt"}


def test_sotu(tmp_path, monkeypatch):
    folder = tmp_path / "sotu" / "data" / "speeches"
    folder.mkdir(parents=True)
    (tmp_path / "sotu" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "sotu", raising=False)
    with pytest.raises(PMLMError, match="no speeches"):
        docstrings.speeches("auto")
    (folder / "2.txt").write_text("Later.\n")
    (folder / "1.txt").write_text("Fellow  citizens:\n\nAll is well.\n")
    assert docstrings.speeches("auto") == [["Fellow citizens:", "All is well."], ["Later."]]
    assert docstrings.speeches("none") == []
    assert docstrings.as_text(docstrings.speeches("auto")) == "Fellow citizens:\nAll is well.\n\nLater.\n"


@pytest.mark.parametrize(
    "options",
    [
        ["--max-body-words", "3"],
        ["--package-share", "0"],
        ["--per-template", "0"],
        ["--min-support", "2"],
        ["--processes", "0"],
        ["--limit", "-1"],
    ],
)
def test_bad_options(options, tmp_path):
    with pytest.raises(PMLMError, match=options[0]):
        docstrings.parse_args(["--destdir", str(tmp_path), *options])


def test_too_little_to_split(installation, tmp_path):
    with pytest.raises(PMLMError, match="too few"):
        run(tmp_path / "one", "--limit", "1")
