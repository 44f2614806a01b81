"""Where pieces stand in the original text, beside a search for what they spell."""

import io

import numpy as np
import pytest
import sentencepiece
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_wordpiece import PIECES
from tokenizers import ByteLevelBPETokenizer

from fairseq_pmlm.tokenizers import files as tokenizer_files
from fairseq_pmlm.tokenizers.byte_bpe import ByteBPE
from fairseq_pmlm.tokenizers.offsets import original_offsets
from fairseq_pmlm.tokenizers.symbols import UNK
from fairseq_pmlm.utils.io import clean_line

LINES = ["the cats sat, singing", "안녕하세요 세계", "a café in the city", "xyz abc 1/2 ..."] * 9


@pytest.fixture(scope="module")
def bpes(tmp_path_factory):
    """One tokenizer of each kind; sentencepiece and byte-level BPE know any text."""
    folder = tmp_path_factory.mktemp("offsets")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES), model_writer=model, vocab_size=340, minloglevel=2, hard_vocab_limit=False,
        byte_fallback=True,
    )  # fmt: skip
    (folder / "sentencepiece.model").write_bytes(model.getvalue())
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in PIECES), encoding="utf-8")
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(
        LINES, vocab_size=320, special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"], show_progress=False
    )
    (folder / "bytes").mkdir()
    trained.save(str(folder / "bytes" / "tokenizer.json"))
    files = folder / "sentencepiece.model", folder / "vocab.txt", folder / "bytes" / "tokenizer.json"
    return {file.name: tokenizer_files.load(str(file)) for file in files}


@pytest.fixture(params=tokenizer_files.KINDS)
def bpe(request, bpes):
    return bpes[request.param]


@given(st.text())
@example("xyz 😀 [SEP] </s> <unk> \u3000 \u200b")
def test_numbers_are_what_is_written(bpes, text):
    for bpe in bpes.values():
        symbols = [symbol if symbol in bpe.pieces else UNK for symbol in bpe.encode(text).split()]
        assert [[bpe.id_to_symbol[i] for i in line] for line in bpe.encode_lines([clean_line(text), ""])] == [
            symbols,
            [],
        ]


def printable_bytes():
    """How byte-level BPE prints bytes: visible ones as themselves, the others from U+0100 on."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [b for b in range(256) if b not in visible]
    return {chr(b): b for b in visible} | {chr(0x100 + i): b for i, b in enumerate(hidden)}


def spelled(bpe, symbol):
    """The bytes that a piece spells; of sentencepiece and WordPiece, without white space."""
    piece = bpe.pieces[symbol]
    if isinstance(bpe, ByteBPE):
        return bytes(printable_bytes()[c] for c in piece)
    if piece.startswith("<0x"):
        return bytes([int(piece[3:5], 16)])
    return piece.removeprefix("##").replace("▁", "").encode()


def search(bpe, text):
    """Characters of *text* that each piece touches, walking through its bytes; None for white space alone."""
    keep = [i for i, c in enumerate(text) if not c.isspace()]
    if isinstance(bpe, ByteBPE):  # it has all white space, and one for a line break
        keep = [i for i in range(len(text)) if text[max(i - 1, 0) : i + 1] != "\r\n"]
    owner = [i for i in keep for _ in text[i].encode()]
    found, at = [], 0
    for symbol in bpe.encode(text).split():
        length = len(spelled(bpe, symbol))
        inside = [i for i in owner[at : at + length] if not text[i].isspace()]
        found.append((inside[0], inside[-1] + 1) if inside else None)
        at += length
    assert at == len(owner)
    return found


TEXTS = [
    "the cats sat, singing",
    "  the   cats\r\nsat,\n\r\nsinging \r\n",
    "the city",
    "\t the cat\x00sat",
    "the \u3000 cat\u00a0sat",
]
MORE = ["안녕하세요 세계", "naïve 😀😀 the café", "x😀y\r\n안녕", "😀", "§ a\u2028b ﹖"]


@pytest.mark.parametrize("text", TEXTS)
def test_a_search_finds_the_same(bpe, text):
    symbols, places = bpe.encode_with_offsets(text)
    assert symbols == bpe.encode(text).split()
    assert places.shape == (len(symbols), 2)
    plain = "".join(" " if c == "\x00" else c for c in text)
    for place, expected in zip(places.tolist(), search(bpe, plain), strict=True):
        if expected is None:
            assert place[0] == place[1]
        else:
            assert tuple(place) == expected


@pytest.mark.parametrize("text", MORE)
@pytest.mark.parametrize("kind", ["sentencepiece.model", "tokenizer.json"])
def test_pieces_of_a_character_all_have_it(bpes, kind, text):
    bpe = bpes[kind]
    if kind == "sentencepiece.model" and "﹖" in text:
        text = text.replace(" ﹖", "")  # it spells this one otherwise
    plain = text.replace("\u2028", " ")
    _, places = bpe.encode_with_offsets(text)
    for place, expected in zip(places.tolist(), search(bpe, plain), strict=True):
        assert (place[0] == place[1]) if expected is None else tuple(place) == expected


def test_what_normalization_spells_out_belongs_to_the_character(bpes):
    bpe = bpes["sentencepiece.model"]
    text = "a ½ cat…"
    symbols, places = bpe.encode_with_offsets(text)
    half = [text[a:b] for symbol, (a, b) in zip(symbols, places, strict=True) if text[a:b] == "½"]
    dots = [symbol for symbol, (a, b) in zip(symbols, places, strict=True) if text[a:b] == "…"]
    assert len(half) >= 3  # 1, a slash, 2
    assert "".join(dots) == "..."


def test_lower_case_and_accents(bpes):
    bpe = bpes["vocab.txt"]
    text = "The  CATS, the Cité"
    _, places = bpe.encode_with_offsets(text)
    assert [text[a:b] for a, b in places] == ["The", "CAT", "S", ",", "the", "C", "i", "t", "é"]


@settings(max_examples=60, deadline=None)
@given(st.text(st.sampled_from("ab cé\r\n\t 😀한\u3000½…\ufeff\u200bZ\ud800"), max_size=14))
def test_offsets_are_ordered_and_free_of_white_space(bpes, text):
    for kind, bpe in bpes.items():
        symbols, places = bpe.encode_with_offsets(text)
        assert len(symbols) == len(places)
        assert (places[:, 0] <= places[:, 1]).all()
        assert (np.diff(places[:, 0]) >= 0).all()
        assert (np.diff(places[:, 1]) >= 0).all()
        for a, b in places:
            assert text[a:b] == text[a:b].strip()
            assert b <= len(text)
        if kind == "tokenizer.json":
            covered = {i for a, b in places for i in range(a, b)}
            assert covered >= {i for i, c in enumerate(clean_line(text.replace("\r\n", "  "))) if not c.isspace()}


def test_clean_text_is_taken_as_it_is():
    assert original_offsets("ab cd", [(0, 2), (2, 5), (5, 5)], [False, False, True]).tolist() == [
        [0, 2],
        [3, 5],
        [5, 5],
    ]
    assert original_offsets("a\r\nb", [(0, 1), (1, 3)], [False, False]).tolist() == [[0, 1], [3, 4]]
    assert original_offsets("", [], []).shape == (0, 2)
