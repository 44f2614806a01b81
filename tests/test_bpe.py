"""The bpe that text cannot break out of, against sentencepiece models made to break it."""

import importlib
import io
import os
from argparse import Namespace

import pytest
import sentencepiece
from fairseq.data import Dictionary, encoders
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_pmlm.tasks import encoders as ours_for_fairseq
from fairseq_pmlm.tokenizers.sentencepiece import SentencePiece
from fairseq_pmlm.tokenizers.symbols import SPECIAL, write_dictionary
from fairseq_pmlm.utils.errors import PMLMError
from fairseq_pmlm.utils.io import clean_line

SPELLINGS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "<pseudo>", "[SEP]", "madeupword0001", "#fairseq:overwrite"]
WORDS = [
    "the cat",
    "a dog sat",
    "안녕하세요 세계",
    "Tiếng Việt rất đẹp",
    "x\u3000y",
    "a\u00a0b",
    "naïve 😀",
    *SPELLINGS,
]
KINDS = {
    # Special spellings as user-defined symbols, white space inside pieces, unknown characters.
    "user-defined": {
        "normalization_rule_name": "identity",
        # <s> and the like are the model's own control symbols under other names, so that they can be defined
        "bos_piece": "<B>",
        "eos_piece": "<E>",
        "unk_piece": "<U>",
        "user_defined_symbols": [*SPELLINGS, "</s>_", "<U+3000>", "\u3000\u3000", "a\u00a0b", "▁<mask>"],
    },
    # Special spellings learned from the text; every character known through its bytes.
    "bytes": {"normalization_rule_name": "identity", "byte_fallback": True, "split_by_unicode_script": False},
    # What the prepare script trains.
    "plain": {},
}


def train(path, lines, **options):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, minloglevel=2, hard_vocab_limit=False, **options
    )
    path.write_bytes(model.getvalue())
    return str(path)


def build(path):
    return encoders.build_bpe(Namespace(bpe="pmlm_sentencepiece", sentencepiece_model=path))


@pytest.fixture(scope="module", params=KINDS)
def kit(request, tmp_path_factory):
    """The bpe, its dictionary as fairseq loads it, and the naked sentencepiece model."""
    folder = tmp_path_factory.mktemp("bpe")
    options = KINDS[request.param]
    lines = [f"{a} {b}" for a in WORDS for b in WORDS] * 3
    path = train(folder / "m.model", lines, vocab_size=420, **options)
    write_dictionary(str(folder / "dict.txt"), SentencePiece.load(path).symbols)
    dictionary = Dictionary.load(str(folder / "dict.txt"))
    return build(path), dictionary, sentencepiece.SentencePieceProcessor(model_file=path)


def specials(dictionary):
    return {dictionary.index(symbol) for symbol in SPECIAL} - {dictionary.unk()}


nasty = st.lists(
    st.one_of(
        st.sampled_from(
            [*WORDS, *SPELLINGS, "</s>_", "<0x41>", "<U+3000>", "\u3000\u3000", "\u2028", "\x00", "\t", "▁", " "]
        ),
        st.text(st.characters(codec=None), max_size=8),
        st.text("가나다라마힣ㄱ ếệđơưÀ\u0301\u200b\u200d\u3000\u00a0\u2581\ufeff", max_size=8),
    ),
    max_size=8,
).map("".join)


@settings(max_examples=150, deadline=None)
@given(nasty)
def test_text_never_spells_a_special_symbol(kit, text):
    ours, dictionary, _ = kit
    symbols = ours.encode(text).split(" ")
    ids = dictionary.encode_line(" ".join(symbols), add_if_not_exist=False, append_eos=False).tolist()
    assert not specials(dictionary).intersection(ids)
    if symbols != [""]:
        assert len(ids) == len(symbols)  # nothing fell apart


@settings(max_examples=150, deadline=None)
@given(nasty)
def test_round_trip_through_fairseq(kit, text):
    ours, dictionary, model = kit
    clean = clean_line(text)
    ids = model.EncodeAsIds(clean)
    back = ours.decode(dictionary.string(dictionary.encode_line(ours.encode(text), add_if_not_exist=False)))
    if model.unk_id() in ids:
        assert back.count("<unk>") >= 1
    else:
        assert back == model.DecodeIds(ids).strip(" ")


def test_bytes_lose_nothing(tmp_path):
    path = train(tmp_path / "m.model", WORDS * 9, vocab_size=400, **KINDS["bytes"])
    ours = build(path)
    for text in ["漢字 </s> <mask>", "x\u3000y\u00a0z", "👩‍👩‍👧", "Tiê\u0301ng", "<unk> <0x41>"]:
        assert ours.decode(ours.encode(text)) == text


def test_pieces_that_need_another_spelling(tmp_path):
    pieces = ["</s>_", "[SEP]", "<U+3000>", "\u3000", "a\u00a0b", "madeupword0003"]
    path = train(tmp_path / "m.model", ["a b"] * 5, vocab_size=60, user_defined_symbols=pieces)
    assert SentencePiece.load(path).symbols[:6] == [
        "</s>_",
        "[SEP]_",
        "<U+3000>",
        "<U+3000>_",
        "a<U+00A0>b",
        "madeupword0003_",
    ]


def test_unknown_surfaces(tmp_path):
    path = train(tmp_path / "m.model", ["ab ba"] * 5, vocab_size=20, user_defined_symbols=["漢_"])
    ours = build(path)
    assert ours.encode("ab 漢字").split()[-1] == "漢字"  # fairseq counts it as replaced
    for surface in ["<mask>", "<other>", "[SEP]", "madeupword0000"]:
        assert ours._unknown(surface) == "<unk>"
    assert ours.encode("") == ours.decode("") == ""


def test_decoding_leaves_finished_text_alone(kit):
    ours = kit[0]
    for text in ["the cat sat", "안녕 세계", "one", "", "  two  spaces "]:
        assert ours.decode(text) == text


def test_decoding_keeps_special_symbols(kit):
    ours, _, _ = kit
    body = ours.encode("the cat")
    assert ours.decode(f"<unk> {body} <mask> {body} <pad> <unk>").replace(" ", "") == (
        "<unk>thecat<mask>thecat<pad><unk>"
    )


def test_words_begin_as_in_fairseq(kit):
    ours, dictionary, _ = kit
    assert all(ours.is_beginning_of_word(symbol) for symbol in SPECIAL)
    for symbol in dictionary.symbols[4:-2]:
        assert ours.is_beginning_of_word(symbol) == symbol.startswith("▁")


def test_dictionary_file(tmp_path):
    path = str(tmp_path / "dict.txt")
    write_dictionary(path, ["▁a", "b"], {"▁a": 3, "b": 0, "<mask>": 0, "<pseudo>": 0})
    with open(path, encoding="utf-8") as f:
        assert f.read() == "▁a 3\nb 0\n<mask> 0\n<pseudo> 0\n"
    assert Dictionary.load(path).symbols == ["<s>", "<pad>", "</s>", "<unk>", "▁a", "b", "<mask>", "<pseudo>"]
    with pytest.raises(UnicodeEncodeError):
        write_dictionary(path, ["\ud800"])
    assert os.listdir(tmp_path) == ["dict.txt"]
    assert len(Dictionary.load(path)) == 8


def test_bad_model_files(tmp_path):
    with pytest.raises(PMLMError, match=r"no such sentencepiece model: .*nowhere"):
        build(str(tmp_path / "nowhere"))
    for content in (b"", b"garbage" * 9):
        (tmp_path / "m.model").write_bytes(content)
        with pytest.raises(PMLMError, match=r"m\.model is not a sentencepiece model"):
            build(str(tmp_path / "m.model"))
    with pytest.raises(PMLMError, match="needs --sentencepiece-model FILE"):
        build("???")


def test_importing_twice_is_harmless():
    importlib.reload(ours_for_fairseq)
    assert "pmlm_sentencepiece" in encoders.BPE_REGISTRY
