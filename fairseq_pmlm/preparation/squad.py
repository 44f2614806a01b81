"""SQuAD files to a data-bin: pieces, windows and texts, as :mod:`~fairseq_pmlm.squad.files` reads them."""

import json
import os
import shutil
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np
from tqdm import tqdm

from ..data.indexed import MMapWriter, best_fitting_int_dtype
from ..squad import windows
from ..squad.files import META
from ..squad.reader import Question, SquadFile
from ..tokenizers.dictionary import load_vocabulary
from ..tokenizers.symbols import all_symbols
from ..utils.errors import PMLMError
from ..utils.io import Counts
from .encoding import UNK_ID


@dataclass
class Prepared:
    """What became of one SQuAD file."""

    questions: int = 0  # written
    passages: int = 0
    windows: int = 0
    impossible: int = 0  # questions without an answer
    cut: int = 0  # questions cut to their head
    answers_elsewhere: int = 0  # questions whose answer lies in no window
    pieces: int = 0  # of passages
    unknown: int = 0
    left_out: int = 0  # questions, of the unmapped ones
    unmapped: list[str] = field(default_factory=list)  # ids
    counts: Counts = field(default_factory=Counts)
    answered: bool = True  # whether it has answers to train and score with


class Part:
    """Writes one part of a data-bin: "train", "valid" or "test".

    Args:
        folder: the data-bin.
        name: of the part.
        bpe: tokenizer with ``encode_with_offsets``.
        ids: symbol -> number in the dictionary.
        limits: sizes of questions and windows.
        training: leave out questions whose answer no run of pieces spells, and take all others.
    """

    def __init__(self, folder: str, name: str, bpe, ids: dict[str, int], limits: windows.Limits, training: bool):
        self.prefix, self.bpe, self.ids, self.limits = os.path.join(folder, name), bpe, ids, limits
        self.training = training
        self.rows: list[tuple[int, ...]] = []
        self.prepared = Prepared()

    def write(self, file: SquadFile) -> Prepared:
        """Write all of *file*.

        Raises:
            PMLMError: see :meth:`~fairseq_pmlm.squad.reader.SquadFile.paragraphs`; a question is empty; nothing is left
                of a passage; there are no questions.
        """
        with ExitStack() as stack:
            tokens = best_fitting_int_dtype(len(self.ids))
            types = {"question": tokens, "passage": tokens, "extent": np.int32}
            self.items = {
                side: stack.enter_context(MMapWriter(f"{self.prefix}.{side}", dtype)) for side, dtype in types.items()
            }
            self.questions, passages = (
                stack.enter_context(open(f"{self.prefix}.{name}.jsonl", "w", encoding="utf-8"))
                for name in ("questions", "passages")
            )
            bar = stack.enter_context(
                tqdm(desc=os.path.basename(self.prefix), unit=" questions", unit_scale=True, disable=None)
            )
            for paragraph in file.paragraphs():
                bar.update(len(paragraph.questions))
                if not paragraph.questions:
                    continue
                symbols, extents = self.bpe.encode_with_offsets(paragraph.passage)
                if not symbols:
                    raise PMLMError(f"{paragraph.questions[0].where}: the tokenizer leaves nothing of the passage")
                written = [self.question(question, paragraph.passage, extents) for question in paragraph.questions]
                if any(written):
                    self.add("passage", self.indices(symbols))
                    self.add("extent", extents.ravel())
                    passages.write(json.dumps({"passage": paragraph.passage}) + "\n")
                    self.prepared.passages += 1
                    self.prepared.pieces += len(symbols)
        prepared = self.prepared
        if not prepared.questions:
            raise PMLMError(f"{file.path}: no questions" + (" whose answer can be mapped" if prepared.left_out else ""))
        np.save(f"{self.prefix}.windows.npy", np.array(self.rows, np.int64))
        if prepared.unmapped:
            with open(f"{self.prefix}.unmapped.txt", "w", encoding="utf-8") as f:
                f.writelines(f"{number}\n" for number in prepared.unmapped)
        prepared.windows, prepared.counts, prepared.answered = len(self.rows), file.counts, file.unanswered == 0
        return prepared

    def question(self, question: Question, passage: str, extents: np.ndarray) -> bool:
        """Write one question and its windows; False if it is left out."""
        prepared, limits = self.prepared, self.limits
        symbols = self.bpe.encode(question.text).split()
        if not symbols:
            raise PMLMError(f"{question.where}: the question is empty")
        spans = (windows.find_answer(passage, extents, answer) for answer in question.answers)
        span = next((span for span in spans if span), None)
        known = question.answered
        if question.answers and span is None:
            prepared.unmapped.append(question.id)
            known = False
            if self.training:
                prepared.left_out += 1
                return False
        prepared.cut += len(symbols) > limits.max_question_positions
        prepared.impossible += known and not question.answers
        tokens = self.indices(symbols[: limits.max_question_positions])
        self.add("question", tokens)
        room = limits.max_source_positions - len(tokens) - 3
        targets = []
        for first, length in windows.cut(len(extents), room, limits.doc_stride):
            unknown = (windows.UNKNOWN, windows.UNKNOWN)
            targets.append(windows.in_window(span, first, length, len(tokens) + 2) if known else unknown)
            self.rows.append((prepared.questions, prepared.passages, first, length, *targets[-1]))
        prepared.answers_elsewhere += span is not None and not any(start > 0 for start, _ in targets)
        texts = [answer.text for answer in question.answers]
        record = {"id": question.id, "question": question.text, "passage": prepared.passages, "answers": texts}
        self.questions.write(json.dumps(record) + "\n")
        prepared.questions += 1
        return True

    def indices(self, symbols: list[str]) -> np.ndarray:
        found = np.array([self.ids.get(symbol, UNK_ID) for symbol in symbols], np.int64)
        self.prepared.unknown += int((found == UNK_ID).sum())
        return found

    def add(self, side: str, item: np.ndarray) -> None:
        self.items[side].add(item, np.array([len(item)]))


def prepare(paths: dict[str, str], vocabulary: str, limits: windows.Limits, folder: str) -> dict[str, Prepared]:
    """Write all of a data-bin for SQuAD files.

    Args:
        paths: part ("train", "valid", "test") -> SQuAD's JSON.
        vocabulary: directory with the dictionary and the tokenizer file.
        limits: sizes of questions and windows.
        folder: directory to write, there and empty.

    Raises:
        PMLMError: see :mod:`fairseq_pmlm.squad.reader`; the files are of different versions.
    """
    windows.check(limits)
    dictionary, bpe = load_vocabulary(vocabulary)
    shutil.copyfile(dictionary, os.path.join(folder, "dict.txt"))
    bpe.save(folder)
    ids = {symbol: number for number, symbol in enumerate(all_symbols(bpe.symbols))}
    files = {name: SquadFile(path, Counts(), answered=name != "test") for name, path in paths.items()}
    versions = {file.version: file.path for file in files.values()}
    if len(versions) > 1:
        raise PMLMError("; ".join(f"{path} is of version {version}" for version, path in versions.items()))
    done = {
        name: Part(folder, name, bpe, ids, limits, training=name == "train").write(file) for name, file in files.items()
    }
    write_meta(folder, next(iter(versions)), limits, done)
    return done


def write_meta(folder: str, version: str, limits: windows.Limits, parts: dict[str, Prepared]) -> None:
    """Write squad.json: what a prediction must repeat, and whether a part has answers."""
    content = {
        "version": version,
        "limits": limits._asdict(),
        "parts": {name: {"questions": part.questions, "answered": part.answered} for name, part in parts.items()},
    }
    with open(os.path.join(folder, META), "w", encoding="utf-8") as f:
        json.dump(content, f, indent=1)
