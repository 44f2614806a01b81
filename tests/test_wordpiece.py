"""WordPiece and byte-level BPE beside the tokenizers of transformers, and text made to break out of them."""

import json
import shutil
from argparse import Namespace

import pytest
import tokenizers
from fairseq.data import Dictionary, encoders
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, BertTokenizer

from fairseq_pmlm.conversion import vocabulary
from fairseq_pmlm.tokenizers import files as tokenizer_files
from fairseq_pmlm.tokenizers import wordpiece
from fairseq_pmlm.tokenizers.byte_bpe import ByteBPE
from fairseq_pmlm.tokenizers.symbols import EXTRA_SYMBOLS, FAIRSEQ_SYMBOLS, SPECIAL, write_dictionary
from fairseq_pmlm.utils.errors import PMLMError
from fairseq_pmlm.utils.io import clean_line

LETTERS = "abcdefghijklmnopqrstuvwxyz"
PIECES = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "##s", "##ing", "sat", ".", ",", "!"]
PIECES += [*LETTERS, *(f"##{letter}" for letter in LETTERS if letter != "s"), "[", "]", "<", ">", "'", "漢"]
CASED = [*PIECES, "The", "CLS", "SEP", "é"]
TEXTS = [
    "The cats sat, singing!",
    "don't [SEP] <s> [MASK] <unk> [unused0]",
    "café 漢字 naïve 😀",
    "x\u3000y\u00a0z w",
    "",
    "a" * 120,
]


def write(folder, pieces):
    path = folder / "vocab.txt"
    path.write_text("".join(f"{piece}\n" for piece in pieces), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module", params=["uncased", "cased"])
def kit(request, tmp_path_factory):
    """Our tokenizer, that of transformers, the dictionary as fairseq loads it, and the vocabulary."""
    folder = tmp_path_factory.mktemp("wordpiece")
    pieces = PIECES if request.param == "uncased" else CASED
    path = write(folder, pieces)
    write_dictionary(str(folder / "dict.txt"), tokenizer_files.load(path).symbols)
    ours = encoders.build_bpe(Namespace(bpe="pmlm_wordpiece", wordpiece_vocab=path))
    theirs = BertTokenizer.from_pretrained(folder, do_lower_case=request.param == "uncased")
    return ours, theirs, Dictionary.load(str(folder / "dict.txt")), pieces


@pytest.fixture(scope="module")
def byte_kit(tmp_path_factory):
    """A byte-level BPE trained by the library, with RoBERTa's special pieces; its file and ours."""
    folder = tmp_path_factory.mktemp("byte_bpe")
    trained = tokenizers.ByteLevelBPETokenizer()
    lines = ["the cats sat, singing <s> </s> <mask>", "안녕하세요 세계", "a café"] * 9
    trained.train_from_iterator(lines, vocab_size=330, special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    trained.save(str(folder / "theirs.json"))
    (folder / "vocab").mkdir()
    trained.save_model(str(folder / "vocab"))
    (folder / "tokenizer.json").write_text(ByteBPE.load(str(folder / "theirs.json")).tokenizer.to_str())
    return folder, trained, tokenizer_files.load(str(folder / "tokenizer.json"))


nasty = st.lists(
    st.one_of(
        st.sampled_from([*TEXTS, *wordpiece.SPECIAL_PIECES, *SPECIAL, "\u2028", "\x00", "\ufffd", " "]),
        st.text(st.characters(codec=None), max_size=8),
    ),
    max_size=8,
).map("".join)


@pytest.mark.parametrize("text", [text for text in TEXTS if "[" not in text])
def test_pieces_are_those_of_transformers(kit, text):
    ours, theirs, _, _ = kit
    assert ours.encode(text).replace("<unk>", "[UNK]").split() == theirs.tokenize(text)


def test_dictionary_has_every_line_once(kit):
    _, _, dictionary, pieces = kit
    assert len(dictionary) == len(pieces) + 1  # and <pseudo>
    assert dictionary.symbols[:4] == list(FAIRSEQ_SYMBOLS)
    assert dictionary.symbols[-2:] == list(EXTRA_SYMBOLS)
    assert dictionary.symbols[4:-2] == [piece for piece in pieces if piece not in wordpiece.SPECIAL_PIECES]


@settings(max_examples=150, deadline=None)
@given(nasty)
def test_text_never_spells_a_special_symbol(kit, byte_kit, text):
    for ours in (kit[0], byte_kit[2]):
        encoded = ours.encode(text)
        assert not (SPECIAL - {"<unk>"}).intersection(encoded.split())
        assert encoded.split() == [symbol for symbol in encoded.split(" ") if symbol]  # nothing falls apart


@settings(max_examples=150, deadline=None)
@given(nasty)
def test_bytes_lose_nothing(byte_kit, text):
    _, _, ours = byte_kit
    assert ours.decode(ours.encode(text)) == clean_line(text).strip(" ")
    assert "<unk>" not in ours.encode(text).split()


def test_words_are_put_together(kit):
    ours = kit[0]
    assert ours.decode(ours.encode("the cats sat, singing!")) == "the cats sat, singing!"
    assert ours.decode("<unk> cat ##s <mask> .") == "<unk> cats <mask>."
    assert ours.decode("") == ""
    assert [ours.is_beginning_of_word(symbol) for symbol in ("cat", "##s", "<s>")] == [True, False, True]


def test_duplicate_blank_and_reserved_lines_keep_a_row(tmp_path):
    pieces = ["cat", *PIECES, "", "<s>", "madeupword0001", "a\u00a0b", "the", "[SEP]"]
    path = write(tmp_path, pieces)
    table = wordpiece.symbol_table(pieces)
    assert table[-6:] == ["<empty>", "<s>_", "madeupword0001_", "a<U+00A0>b", "the", "</s>"]  # the last one counts
    assert table[0] == "cat_"
    assert table[1 + PIECES.index("the")] == "the_"
    assert table[1 + PIECES.index("[SEP]")] == "[SEP]_"
    assert len(set(table)) == len(table)
    ours = tokenizer_files.load(path)
    assert ours.encode("the cat") == "the cat"
    write_dictionary(str(tmp_path / "dict.txt"), tokenizer_files.load(path).symbols)
    assert len(Dictionary.load(str(tmp_path / "dict.txt"))) == len(pieces) + 1


def test_case_follows_the_vocabulary_or_the_file_beside_it(tmp_path):
    assert wordpiece.implied_settings(PIECES).do_lower_case
    assert not wordpiece.implied_settings(CASED).do_lower_case
    path = write(tmp_path, PIECES)
    before = tokenizer_files.fingerprint(path)
    assert tokenizer_files.load(path).encode("The cat") == "the cat"
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false, "model_max_length": 512}')
    assert tokenizer_files.load(path).encode("The cat") == "<unk> cat"
    assert tokenizer_files.fingerprint(path) != before
    (tmp_path / "copy").mkdir()
    copied = tokenizer_files.load(path).save(str(tmp_path / "copy"))
    assert tokenizer_files.fingerprint(copied) == tokenizer_files.fingerprint(path)
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    assert tokenizer_files.fingerprint(path) == before
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": "yes"}')
    with pytest.raises(PMLMError, match=r"tokenizer_config\.json: do_lower_case is 'yes', neither true nor false"):
        tokenizer_files.load(path)


def test_byte_pieces_are_those_of_transformers(byte_kit, tmp_path):
    folder, trained, ours = byte_kit
    for text in ("The cats sat, singing!", "안녕 café 😀", " two  spaces ", ""):
        assert ours.encode(text).split() == trained.encode(text).tokens
    shutil.copytree(folder / "vocab", tmp_path / "roberta")
    (tmp_path / "roberta" / "config.json").write_text('{"model_type": "roberta"}')
    theirs = AutoTokenizer.from_pretrained(tmp_path / "roberta")
    assert ours.encode("The cats sat, 안녕").split() == theirs.tokenize("The cats sat, 안녕")
    two_files = ByteBPE.load(str(folder / "vocab" / "vocab.json"))
    assert json.loads(two_files.content) == json.loads((folder / "tokenizer.json").read_text())


def test_bad_files(tmp_path):
    with pytest.raises(PMLMError, match="pmlm_wordpiece needs --wordpiece-vocab FILE"):
        encoders.build_bpe(Namespace(bpe="pmlm_wordpiece", wordpiece_vocab="???"))
    path = tmp_path / "vocab.txt"
    path.write_text("[CLS]\n[PAD]\n")
    with pytest.raises(PMLMError, match=r"vocab\.txt is not a WordPiece vocabulary: none of its 2 pieces is \[SEP\]"):
        tokenizer_files.load(str(path))
    path.write_bytes(b"a\n\xff\n")
    with pytest.raises(PMLMError, match=r"vocab\.txt, line 2: not UTF-8"):
        tokenizer_files.load(str(path))
    path = tmp_path / "tokenizer.json"
    for content, said in (
        ("{", "broken JSON"),
        ("[]", "not a JSON object"),
        ('{"model": {"type": "Unigram"}, "pre_tokenizer": null}', "is not byte-level BPE; its model is Unigram"),
        ('{"model": {}}', "is not byte-level BPE"),
        ('{"<s>": 0}', "cannot read .*merges.txt"),
    ):
        path.write_text(content)
        with pytest.raises(PMLMError, match=said):
            tokenizer_files.load(str(path))
    path.unlink()
    write(tmp_path, PIECES)
    made = BertTokenizer.from_pretrained(tmp_path)
    for changes, said in (
        ({"strip_accents": "no"}, "its normalizer.strip_accents is 'no', neither true nor false"),
        ({"type": "Lowercase"}, "its normalizer.type is 'Lowercase'; BERT's WordPiece has 'BertNormalizer'"),
        ({"half": "\ud800"}, r"is not BERT's WordPiece \(UnicodeEncodeError"),
    ):
        content = json.loads(made.backend_tokenizer.to_str())
        if "half" in changes:
            content["model"]["vocab"][changes["half"]] = len(PIECES)
        else:
            content["normalizer"] |= changes
        path.write_text(json.dumps(content))
        with pytest.raises(PMLMError, match=said):
            vocabulary.read(str(path), {})
    with pytest.raises(PMLMError, match="a tokenizer file is named like sentencepiece"):
        tokenizer_files.load("pieces.spm")
