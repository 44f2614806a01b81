"""Our dictionary beside fairseq's, on the same files and lines."""

import copy

import pytest
import torch
from fairseq.data import Dictionary as Theirs
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fairseq_pmlm.tasks import base
from fairseq_pmlm.tokenizers.dictionary import Dictionary, load_dictionary
from fairseq_pmlm.utils.errors import PMLMError

SYMBOLS = ["a", "b", "▁the", "##s", "a b", "", "\u3000", "é", "<s>", "<unk>", "<mask>", "\ufeff", "#fairseq:overwrite"]
COUNTS = ["1", "0", "12", "+3", "-4", "1_000", "٣", "\t5", "x", "1.5", "", "#fairseq:overwrite"]
OVERWRITE = " #fairseq:overwrite"

lines = st.one_of(
    st.builds(
        lambda *parts: "".join(parts),
        st.sampled_from(SYMBOLS) | st.text(max_size=3),
        st.sampled_from([" ", " ", " ", "\t", "  ", ""]),
        st.sampled_from(COUNTS) | st.integers(0, 99).map(str),
        st.sampled_from(["", "", "", OVERWRITE, OVERWRITE * 2, " ", "\x0c", "\u2028"]),
    ),
    # what is read, most often
    st.builds("{} {}{}".format, st.sampled_from("abcdefgh<"), st.integers(0, 9), st.sampled_from(["", OVERWRITE])),
)
files = st.lists(st.tuples(lines, st.sampled_from(["\n", "\n", "\r\n", "\r"])), max_size=6).map(
    lambda found: "".join(line + end for line, end in found)
)
contents = st.one_of(files, files.map(str.strip)).map(lambda text: text.encode("utf-8", "surrogatepass"))


def load(kind, path, refusal):
    """The dictionary, or None where the file is refused."""
    try:
        return kind.load(str(path))
    except refusal:
        return None


def assert_same(ours, theirs):
    for name in ("symbols", "count", "indices", "nspecial", "bos_word", "pad_word", "eos_word", "unk_word"):
        assert getattr(ours, name) == getattr(theirs, name), name
    for name in ("bos", "pad", "eos", "unk"):
        assert getattr(ours, name)() == getattr(theirs, name)()
    assert len(ours) == len(theirs)
    assert ours == theirs
    assert theirs == ours
    assert [ours[i] for i in range(-1, len(ours) + 2)] == [theirs[i] for i in range(-1, len(theirs) + 2)]
    for symbol in [*theirs.symbols, *SYMBOLS, "nowhere"]:
        assert ours.index(symbol) == theirs.index(symbol)
        assert (symbol in ours) == (symbol in theirs)


@settings(max_examples=600, deadline=None)
@given(
    content=contents | st.binary(max_size=30),
    line=st.text(st.sampled_from("abx \t\u3000\x1c\u2028é<unk>"), max_size=12),
)
@example(content=b"a 1\nb 2\na 3 #fairseq:overwrite\n<s> 5 #fairseq:overwrite\n", line="a <s> b nowhere")
@example(content=b"a 1\na 1 #fairseq:overwrite\na 1\n", line="")
@example(content=b"a b 1\r\nc 2\rd 3", line="a\u00a0b c")
@example(content=b"a 1 #fairseq:overwrite #fairseq:overwrite\n", line="")
@example(content=b" 1\n", line="")
@example(content=b"a 1\n\nb 2\n", line="")
@example(content=b"a \xff\n", line="")
def test_reads_what_fairseq_reads(tmp_path_factory, content, line):
    path = tmp_path_factory.getbasetemp() / "dict.txt"
    path.write_bytes(content)
    ours, theirs = load(Dictionary, path, PMLMError), load(Theirs, path, Exception)
    assert (ours is None) == (theirs is None)
    if ours is None:
        return
    assert_same(ours, theirs)
    for options in ({}, {"append_eos": False}, {"add_if_not_exist": True}):
        a, b = copy.deepcopy(ours), copy.deepcopy(theirs)
        found = a.encode_line(line, **options)
        expected = b.encode_line(line, **{"add_if_not_exist": False} | options)
        assert found.dtype == expected.dtype == torch.int32
        assert found.tolist() == expected.tolist()
        assert_same(a, b)
    for symbol, overwrite in (("a", False), ("new", False), ("a", True)):
        assert ours.add_symbol(symbol, 2, overwrite) == theirs.add_symbol(symbol, 2, overwrite)
        assert_same(ours, theirs)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a 1\nb x\n", "line 2: not 'symbol count' as fairseq's dictionaries have it, but 'b x'"),
        (b"a 1\n\nb 2\n", "line 2: not 'symbol count' as fairseq's dictionaries have it, but ''"),
        (b"a 1\nb 1\na 1\n", "line 3: the symbol 'a' is already in line 1"),
        (b"a 1\n<s> 1\n", "line 2: not 'symbol count'"),
        (b"a 1\n\xff 1\n", "line 2: not UTF-8"),
    ],
)
def test_broken_lines_are_named(content, said, tmp_path):
    (tmp_path / "dict.txt").write_bytes(content)
    with pytest.raises(PMLMError, match=rf"dict\.txt, {said}"):
        Dictionary.load(str(tmp_path / "dict.txt"))


def test_the_dictionary_of_a_data_directory_is_that_of_the_tasks(tmp_path):
    for place, content in (("one", "a 1\nb 1\n"), ("two", "a 1\n<pseudo> 1\n<mask> 1\n")):
        (tmp_path / place).mkdir()
        (tmp_path / place / "dict.txt").write_text(content)
        data = f"{tmp_path / place}:{tmp_path}/nowhere"
        assert_same(load_dictionary(data), base.load_dictionary(data))
    assert load_dictionary(str(tmp_path / "one")).symbols[4:] == ["a", "b", "<mask>", "<pseudo>"]
    for load in (load_dictionary, base.load_dictionary):
        with pytest.raises(PMLMError, match=r"no .*nowhere/dict\.txt; prepare the data first, or name the directory"):
            load(f"{tmp_path}/nowhere:{tmp_path}/one")


def test_a_missing_file(tmp_path):
    with pytest.raises(PMLMError, match=r"cannot read .*dict\.txt: No such file"):
        Dictionary.load(str(tmp_path / "dict.txt"))
