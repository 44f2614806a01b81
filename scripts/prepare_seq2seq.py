"""Pairs of texts to a directory that ``fairseq-train --task pmlm_seq2seq`` and ``fairseq-generate`` read.

    python scripts/prepare_seq2seq.py --train train.jsonl --valid valid.jsonl --test test.jsonl \\
        --vocab-from data-bin/corpus --destdir data-bin/summaries

Every line of a file (UTF-8, plain or .gz) is a JSON object with the texts ``src`` and ``tgt``. In --valid and --test,
``tgt`` may be a list of references: the first one is binarized, and all of them are written to DIR/test.ref0.txt,
test.ref1.txt, ... for scoring. The tokenizer and the dictionary are those of a directory that prepare_pretraining.py
wrote. DIR then holds dict.txt, dict.src.txt, dict.tgt.txt, sentencepiece.model, train.src-tgt.src.bin and so on, and
the plain text of each side as train.src.txt and train.tgt.txt, one line per record.
"""

import argparse
import os
import re
import shutil

from fairseq_pmlm import binarize
from fairseq_pmlm.bpe import EXTRA_SYMBOLS, symbols
from fairseq_pmlm.errors import PMLMError, install_excepthook
from fairseq_pmlm.text import Counts, kind, read_records, text_value

SPLITS = ("train", "valid", "test")
SIDES = ("src", "tgt")
VISIBLE = re.compile("[0-9A-Za-z가-힣]")  # no tokenizer loses these


def parse_arguments(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", required=True, metavar="FILE", help="JSON lines with src and tgt, plain or .gz")
    parser.add_argument("--valid", metavar="FILE", help="the same for validation; tgt may be a list of references")
    parser.add_argument("--test", metavar="FILE", help="the same for generation; tgt may be a list of references")
    parser.add_argument(
        "--vocab-from",
        required=True,
        metavar="DIR",
        help="directory whose dict.txt and sentencepiece.model to use: that of the model to fine-tune",
    )
    parser.add_argument(
        "--skip-empty",
        action="store_true",
        help="leave out records whose src or tgt is empty, and count them, instead of stopping at the first",
    )
    binarize.add_common_arguments(parser)
    return parser.parse_args(argv)


def check_vocabulary(folder: str) -> tuple[str, str]:
    """Paths of the dictionary and the sentencepiece model in *folder*.

    Raises:
        PMLMError: one is missing or broken, or they do not belong together.
    """
    dictionary, model = os.path.join(folder, "dict.txt"), os.path.join(folder, binarize.MODEL)
    for path in (dictionary, model):
        if not os.path.isfile(path):
            raise PMLMError(f"--vocab-from {folder}: there is no {os.path.basename(path)}")
    if binarize.read_dictionary(dictionary) != [*symbols(model), *EXTRA_SYMBOLS]:
        raise PMLMError(f"--vocab-from {folder}: dict.txt was not made from the {binarize.MODEL} beside it")
    return dictionary, model


class Reader:
    """Reads one split and writes its plain text; *counts* says what was met."""

    def __init__(self, path: str, name: str, bpe, skip_empty: bool):
        self.path, self.name, self.bpe, self.skip_empty = path, name, bpe, skip_empty
        self.counts = Counts()
        self.records = self.skipped = self.references = 0

    def is_empty(self, text: str) -> bool:
        """Whether there is nothing to binarize: no text, or only what the tokenizer's normalization removes."""
        return not VISIBLE.search(text) and not self.bpe.encode(text)

    def read(self):
        """Source and references of each record, as clean lines."""
        for number, (src, tgt) in read_records(self.path, SIDES, self.counts):
            where = f"{self.path}, line {number}"
            references = tgt
            if not isinstance(tgt, list):
                references = [tgt]
            elif self.name == "train":
                raise PMLMError(f"{where}, key 'tgt': {kind(tgt)}; in --train, give each reference a record of its own")
            elif not tgt:
                raise PMLMError(f"{where}, key 'tgt': an empty list of references")
            source = text_value(src, f"{where}, key 'src'", self.counts)
            references = [text_value(text, f"{where}, key 'tgt'", self.counts) for text in references]
            empty = [key for key, texts in (("src", [source]), ("tgt", references)) if any(map(self.is_empty, texts))]
            if not empty:
                self.records += 1
                self.references = max(self.references, len(references))
                yield source, references
            elif self.skip_empty:
                self.skipped += 1
            else:
                raise PMLMError(f"{where}, key '{empty[0]}': empty; --skip-empty leaves such records out")

    def write(self, folder: str) -> None:
        """Write FOLDER/NAME.src.txt and .tgt.txt, and .ref0.txt, ... if a record has several references.

        Raises:
            PMLMError: see :func:`fairseq_pmlm.text.read_records`; an empty or wrong value; no records at all.
        """
        paths = {side: os.path.join(folder, f"{self.name}.{side}.txt") for side in SIDES}
        # Every file of references has a line per record. Where a record has fewer than others, its first one stands
        # in: a repeated reference changes neither n-gram matches nor the closest length.
        lists = []
        with (
            open(paths["src"], "w", encoding="utf-8", newline="\n") as src,
            open(paths["tgt"], "w", encoding="utf-8", newline="\n") as tgt,
        ):
            for source, references in self.read():
                src.write(source + "\n")
                tgt.write(references[0] + "\n")
                if self.name != "train":
                    lists.append(references)
        if not self.records:
            raise PMLMError(f"{self.path}: no records with src and tgt")
        for i in range(self.references if self.references > 1 else 0):
            with open(os.path.join(folder, f"{self.name}.ref{i}.txt"), "w", encoding="utf-8", newline="\n") as f:
                f.writelines((references[i] if i < len(references) else references[0]) + "\n" for references in lists)


def main(argv=None) -> None:
    install_excepthook()
    args = parse_arguments(argv)
    given = {name: getattr(args, name) for name in SPLITS if getattr(args, name)}
    for name, path in given.items():
        if not os.path.exists(path) or os.path.isdir(path):
            raise PMLMError(f"--{name} {path}: no such file")
    dictionary, model = check_vocabulary(args.vocab_from)
    bpe = binarize.load_bpe(model)

    readers, results = {}, {}
    with binarize.building(args.destdir, args.overwrite) as folder:
        shutil.copyfile(dictionary, os.path.join(folder, "dict.txt"))
        shutil.copyfile(model, os.path.join(folder, binarize.MODEL))
        encoded = os.path.join(folder, binarize.ENCODED)
        os.mkdir(encoded)
        for name, path in given.items():  # all of them before the long part, so that errors come early
            readers[name] = Reader(path, name, bpe, args.skip_empty)
            readers[name].write(folder)
        for name, reader in readers.items():
            for side in SIDES:
                source, target = os.path.join(folder, f"{name}.{side}.txt"), os.path.join(encoded, f"{name}.{side}")
                results[name, side] = binarize.encode_file(
                    source, target, model, args.workers, reader.records, f"encoding {name}.{side}"
                )
        options = ["--source-lang", "src", "--target-lang", "tgt", "--srcdict", "dict.txt", "--tgtdict", "dict.txt"]
        options += [f"--{name}pref={binarize.ENCODED}/{name}" for name in given]
        expected = {f"{name}.src-tgt.{side}": result for (name, side), result in results.items()}
        binarize.run_preprocess(folder, args.destdir, options, args.workers, expected)
        if not args.keep_encoded:
            shutil.rmtree(encoded)

    for name, reader in readers.items():
        counts = reader.counts
        print(
            f"{name}: {reader.records} records of {counts.lines} ({reader.skipped} empty ones left out, "
            f"{counts.blank_lines} blank lines), up to {reader.references} references, {counts.bytes} bytes; "
            f"replaced characters: {counts.describe_replaced()}"
        )
        for side in SIDES:
            result = results[name, side]
            print(
                f"  {side}: {result.tokens} tokens, {result.tokens / result.lines:.1f} a record, longest "
                f"{result.longest}; unknown: {result.describe_unknown()}"
            )
    print(f"{args.destdir} is ready for fairseq-train")


if __name__ == "__main__":
    main()
