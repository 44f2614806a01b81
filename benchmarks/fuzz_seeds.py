"""The readers that ``fuzz_readers.py`` feeds, each with small valid files."""

import gzip
import io
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import fairseq_pmlm.tasks  # noqa: F401  (before fairseq)

# isort: split
import numpy as np
import sentencepiece
import tokenizers
import torch
from fairseq.data import indexed_dataset
from fairseq.tasks.sentence_prediction import SentencePredictionTask

from fairseq_pmlm.conversion import vocabulary as imported
from fairseq_pmlm.preparation import glue, pairs
from fairseq_pmlm.preparation.squad import prepare
from fairseq_pmlm.reporting import logs
from fairseq_pmlm.scoring import hypotheses
from fairseq_pmlm.squad import windows
from fairseq_pmlm.squad.reader import SquadFile
from fairseq_pmlm.tasks.base import load_dictionary
from fairseq_pmlm.tasks.pmlm import PMLMTask, PMLMTaskConfig
from fairseq_pmlm.tasks.pmlm_squad import PMLMSquadConfig, PMLMSquadTask
from fairseq_pmlm.tokenizers import byte_bpe
from fairseq_pmlm.tokenizers import dictionary as dictionaries
from fairseq_pmlm.tokenizers import files as tokenizer_files
from fairseq_pmlm.tokenizers.symbols import write_dictionary
from fairseq_pmlm.utils import io as text
from fairseq_pmlm.utils.errors import PMLMError

LETTERS = [chr(c) for c in range(ord("a"), ord("z") + 1)]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PIECES = [*SPECIAL, *LETTERS, *(f"##{c}" for c in LETTERS), ".", "the", "cat", "##ats"]
TEXT = "the cats sat. a dog ran.\nEin Hund lief.\n\n안녕하세요 세계\nTiếng Việt ★\n" * 3


def unpacked(content: bytes) -> bytes:
    return content


@dataclass
class Reader:
    """One way in for files.

    name: for the table. files: what a folder holds, name -> content. mutated: which of them are damaged. read: reads
    all of the folder as users of the package do. kind: "text", "json" or "bytes", how to damage them. inputs: how
    many by default. pack: makes the file out of what was damaged, such as an archive out of what is in it.
    """

    name: str
    files: dict[str, bytes]
    mutated: tuple[str, ...]
    read: Callable[[str], None]
    kind: str = "text"
    inputs: int = 500
    pack: Callable[[bytes], bytes] = unpacked

    def write(self, folder: str, name: str, content: bytes) -> None:
        """Write all files into *folder*, the file *name* with that *content*."""
        for other, valid in self.files.items():
            path = os.path.join(folder, other)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as f:
                f.write(content if other == name else valid)


READERS: dict[str, Callable[[], Reader]] = {}


def reader(name: str):
    """Register a function that makes the :class:`Reader` called *name* out of it."""

    def register(function):
        READERS[name] = lambda: function(name)
        return function

    return register


def folder_of(write: Callable[[str], None]) -> dict[str, bytes]:
    """The files that *write* writes into a folder."""
    with tempfile.TemporaryDirectory() as folder:
        write(folder)
        found = [os.path.join(root, name) for root, _, names in os.walk(folder) for name in names]
        return {os.path.relpath(path, folder): open(path, "rb").read() for path in found}


def read_text(files):
    for path in files:
        counts = text.Counts()
        for line in text.mark_documents((line for _, line in text.read_lines(path, counts)), "blocks", counts):
            line.encode()


@reader("text")
def plain_text(name):
    def read(folder):
        read_text(text.list_files([os.path.join(folder, "a.txt")]))

    return Reader(name, {"a.txt": TEXT.encode()}, ("a.txt",), read)


@reader("text.gz")
def zipped_text(name):
    def read(folder):
        read_text([os.path.join(folder, "a.txt.gz")])

    return Reader(name, {"a.txt.gz": gzip.compress(TEXT.encode(), mtime=0)}, ("a.txt.gz",), read, "bytes")


PAIRS = [{"src": f"source {i} \u2028 안녕", "tgt": ["target", f"number {i}"], "id": i} for i in range(4)]


@reader("pairs.jsonl")
def json_pairs(name):
    def read(folder):
        counts = text.Counts()
        for record in pairs.read_json_lines(os.path.join(folder, "a.jsonl"), ["src"], "tgt", counts):
            for where, value in (*record.source, *record.references):
                text.text_value(value, where, counts).encode()

    lines = "\n".join(json.dumps(pair, ensure_ascii=False) for pair in PAIRS)
    return Reader(name, {"a.jsonl": lines.encode()}, ("a.jsonl",), read, "json", 600)


@reader("parallel text")
def parallel_text(name):
    def read(folder):
        paths = [os.path.join(folder, file) for file in ("a.src", "a.tgt")]
        list(pairs.read_parallel(paths, text.Counts()))

    return Reader(name, {"a.src": TEXT.encode(), "a.tgt": TEXT.encode()}, ("a.src", "a.tgt"), read, inputs=200)


def squad(version="v2.0"):
    passage = "the cat sat on the mat. a dog ran to the cats."
    questions = [
        {"id": "1", "question": "who?", "answers": [{"text": "the cat", "answer_start": 0}], "is_impossible": False},
        {"id": "2", "question": "what?", "answers": [{"text": "dog", "answer_start": 26}], "is_impossible": False},
        {"id": "3", "question": "why?", "answers": [], "is_impossible": True},
    ]
    return {"version": version, "data": [{"title": "t", "paragraphs": [{"context": passage, "qas": questions}]}]}


@reader("squad.json")
def squad_json(name):
    def read(folder):
        list(SquadFile(os.path.join(folder, "a.json"), text.Counts()).paragraphs())

    return Reader(name, {"a.json": json.dumps(squad()).encode()}, ("a.json",), read, "json", 600)


def wordpiece_folder(folder):
    with open(os.path.join(folder, "vocab.txt"), "w", encoding="utf-8") as f:
        f.write("".join(f"{piece}\n" for piece in PIECES))
    write_dictionary(os.path.join(folder, "dict.txt"), tokenizer_files.load(os.path.join(folder, "vocab.txt")).symbols)


@reader("squad.json to data-bin")
def squad_prepared(name):
    def read(folder):
        with tempfile.TemporaryDirectory() as out:
            limits = windows.Limits(40, 8, 16)
            prepare({"train": os.path.join(folder, "a.json")}, folder, limits, out)

    files = folder_of(wordpiece_folder) | {"a.json": json.dumps(squad()).encode()}
    return Reader(name, files, ("a.json",), read, "json", 300)


@reader("glue.tsv")
def glue_table(name):
    table = glue.Table(("sentence1", "sentence2"), "label")
    lines = ["index\tsentence1\tsentence2\tlabel", *(f"{i}\ta text {i}\tanother\tentailment" for i in range(5))]

    def read(folder):
        for record in glue.read(os.path.join(folder, "a.tsv"), table, text.Counts()):
            glue.check_label(record, ("entailment", "not_entailment"))

    return Reader(name, {"a.tsv": "\n".join(lines).encode()}, ("a.tsv",), read, inputs=400)


@reader("glue.jsonl")
def glue_json(name):
    table = glue.Table(("a", "b"), "score")
    lines = [json.dumps({"a": f"text {i}", "b": "안녕", "score": i / 2}) for i in range(5)]

    def read(folder):
        path = os.path.join(folder, "a.jsonl")
        glue.has_column(path, table, "score")
        for record in glue.read(path, table, text.Counts()):
            glue.check_label(record, ())

    return Reader(name, {"a.jsonl": "\n".join(lines).encode()}, ("a.jsonl",), read, "json", 300)


def use_tokenizer(file):
    def read(folder):
        bpe = tokenizer_files.load(os.path.join(folder, file))
        bpe.decode(bpe.encode("The cats sat. [SEP] 안녕"))
        bpe.encode_with_offsets("The cats sat.")
        tokenizer_files.fingerprint(os.path.join(folder, file))

    return read


@reader("vocab.txt")
def vocabulary(name):
    files = {"vocab.txt": "".join(f"{piece}\n" for piece in PIECES).encode()}
    files["tokenizer_config.json"] = b'{"do_lower_case": true, "strip_accents": null}'
    return Reader(name, files, tuple(files), use_tokenizer("vocab.txt"), "text", 400)


@reader("tokenizer.json, WordPiece")
def wordpiece_json(name):
    model = tokenizers.models.WordPiece({piece: i for i, piece in enumerate(PIECES)}, unk_token="[UNK]")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    vocab = "".join(f"{piece}\n" for piece in PIECES).encode()
    files = {"tokenizer.json": tokenizer.to_str().encode(), "vocab.txt": vocab}

    def read(folder):
        use_tokenizer("vocab.txt")(folder)
        imported.read(os.path.join(folder, "tokenizer.json"), {}).write(folder)

    return Reader(name, files, ("tokenizer.json",), read, "json", 300)


@reader("tokenizer.json, byte-level BPE")
def byte_json(name):
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    pieces = [*byte_bpe.SPECIAL_PIECES, *alphabet, "th", "the"]
    built = byte_bpe.build({piece: i for i, piece in enumerate(pieces)}, [("t", "h"), ("th", "e")], False)
    files = {"tokenizer.json": built.to_str().encode()}
    return Reader(name, files, ("tokenizer.json",), use_tokenizer("tokenizer.json"), "json", 300)


@reader("sentencepiece.model")
def sentencepiece_model(name):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.splitlines() * 3), model_writer=model, vocab_size=35, minloglevel=2
    )
    files = {"sentencepiece.model": model.getvalue()}
    return Reader(name, files, tuple(files), use_tokenizer("sentencepiece.model"), "bytes", 400)


@reader("dict.txt")
def dictionary(name):
    files = {"dict.txt": "".join(f"w{i} {100 - i}\n" for i in range(20)).encode() + b"<mask> 1\n<pseudo> 1\n"}

    def read(folder):
        try:
            ours = dictionaries.load_dictionary(folder)
        except PMLMError:
            ours = None
        assert load_dictionary(folder) == ours  # fairseq's refuses and reads the same

    return Reader(name, files, ("dict.txt",), read, inputs=400)


def write_binarized(prefix, lines, dtype=np.uint16):
    builder = indexed_dataset.MMapIndexedDatasetBuilder(f"{prefix}.bin", dtype=dtype)
    for line in lines:
        builder.add_item(torch.tensor(line))
    builder.finalize(f"{prefix}.idx")


def binarized_files(folder):
    with open(os.path.join(folder, "dict.txt"), "w", encoding="utf-8") as f:
        f.write("".join(f"w{i} 1\n" for i in range(20)) + "<mask> 1\n<pseudo> 1\n")
    rng = np.random.default_rng(1)
    lines = [[*rng.integers(4, 24, rng.integers(0, 9)).tolist(), 2] for _ in range(30)]
    write_binarized(os.path.join(folder, "train"), lines)


def pretraining_reader(name, break_mode):
    def read(folder):
        cfg = PMLMTaskConfig(data=folder, tokens_per_sample=16, sample_break_mode=break_mode, seed=1)
        task = PMLMTask.setup_task(cfg)
        task.load_dataset("train")
        data = task.datasets["train"]
        data.collater([data[i] for i in range(min(len(data), 100))])

    return Reader(name, folder_of(binarized_files), ("train.idx", "train.bin", "train.idx"), read, "bytes", 500)


READERS["data-bin, blocks"] = lambda: pretraining_reader("data-bin, blocks", "none")
READERS["data-bin, whole lines"] = lambda: pretraining_reader("data-bin, whole lines", "complete_doc")


@reader("data-bin, classification")
def classification(name):
    def write(folder):
        for part in ("input0", "input1", "label"):
            os.makedirs(os.path.join(folder, part))
            binarized_files(os.path.join(folder, part))
        write_binarized(os.path.join(folder, "label", "train"), [[4 + i % 2, 2] for i in range(30)])

    def read(folder):
        cfg = SimpleNamespace(
            data=folder,
            num_classes=2,
            init_token=0,
            separator_token=None,
            no_shuffle=False,
            shorten_method="none",
            shorten_data_split_list="",
            add_prev_output_tokens=False,
            max_positions=512,
            regression_target=False,
            seed=1,
            d2v2_multi=False,
            classification_head_name="h",
        )
        task = SentencePredictionTask.setup_task(cfg)
        task.load_dataset("train")
        data = task.datasets["train"]
        batch = data.collater([data[i] for i in range(len(data))])
        torch.nn.functional.embedding(batch["net_input"]["src_tokens"], torch.zeros(len(task.dictionary), 1))

    files = folder_of(write)
    mutated = tuple(file for file in files if file.endswith((".idx", ".bin")))
    return Reader(name, files, mutated, read, "bytes", 300)


@reader("data-bin, SQuAD")
def squad_data(name):
    def write(folder):
        wordpiece_folder(folder)
        path = os.path.join(folder, "a.json")
        with open(path, "w", encoding="utf-8") as f:
            json.dump(squad(), f)
        with tempfile.TemporaryDirectory() as out:
            prepare({"valid": path}, folder, windows.Limits(40, 8, 16), out)
            for file in os.listdir(out):
                os.replace(os.path.join(out, file), os.path.join(folder, file))

    def read(folder):
        task = PMLMSquadTask.setup_task(PMLMSquadConfig(data=folder, fp16=False, bf16=False))
        task.load_dataset("valid")
        data = task.datasets["valid"]
        batch = data.collater([data[i] for i in range(len(data))])
        tokens = batch["net_input"]["src_tokens"]
        torch.nn.functional.embedding(tokens, torch.zeros(len(task.dictionary), 1))
        logits = torch.randn(*tokens.shape, 2, generator=torch.Generator().manual_seed(1))
        torch.nn.functional.cross_entropy(logits, batch["target"], ignore_index=-1)
        data.judge(batch, logits, 30)

    files = folder_of(write)
    mutated = tuple(file for file in files if file.startswith("valid.") or file == "squad.json")
    return Reader(name, files, mutated, read, "bytes", 500)


@reader("training log")
def training_log(name):
    date, inner = "2026-01-01 00:00:00 | ", {"loss": "9.5", "wpb": "80"}
    lines = [f"{date}INFO | train_inner | " + json.dumps(inner | {"num_updates": str(i)}) for i in range(9)]
    lines += [json.dumps({"epoch": 1, "valid_loss": "8.5", "valid_num_updates": "8"}), f"{date}WARNING | x | careful"]

    def read(folder):
        log = logs.read(os.path.join(folder, "train.log"))
        log.tokens()
        log.curve("loss")

    return Reader(name, {"train.log": "\n".join(lines).encode()}, ("train.log",), read, "json", 300)


@reader("generate.txt")
def generate_output(name):
    lines = [f"S-{i}\ta source\nT-{i}\ta target\nH-{i}\t-0.5\ta b\nD-{i}\t-0.5\ta b\nP-{i}\t-0.1" for i in (1, 0, 2)]
    files = {"generate.txt": ("noise\n" + "\n".join(lines) + "\n").encode()}

    def read(folder):
        hypotheses.read_generate(os.path.join(folder, "generate.txt"))

    return Reader(name, files, ("generate.txt",), read, inputs=300)
