"""Raw text to a directory that ``fairseq-train --task pmlm`` reads.

    python scripts/prepare_pretraining.py --text corpus/ more.txt.gz --vocab-size 8000 --destdir data-bin/corpus

Text is UTF-8, plain or .gz, in files or directories (searched recursively). Blank lines separate documents; within a
document every line stays a line (fairseq's ``--sample-break-mode`` decides what becomes of them). The script trains a
sentencepiece model on the training part, or takes a tokenizer (--sentencepiece-model FILE, --wordpiece-vocab FILE, or
--vocab-from DIR for that of an imported checkpoint or of another corpus), encodes, and calls ``fairseq-preprocess``.
DIR then holds dict.txt, the tokenizer file, train.bin, train.idx, valid.bin and valid.idx. The same input gives the
same bytes, whatever the number of workers.
"""

import argparse
import io
import os
import random
import re
import shutil
from typing import Iterator

import sentencepiece

from fairseq_pmlm import binarize, tokenizer_files
from fairseq_pmlm.bpe import write_dictionary
from fairseq_pmlm.errors import PMLMError, describe, install_excepthook
from fairseq_pmlm.text import Counts, list_files, read_documents, read_lines

SPELLED = re.compile("</?s>|<unk>")  # sentencepiece's special pieces
LONGEST = 2000  # characters of a line that sentencepiece trains on at a time; it would skip lines over 4192 bytes


def parse_arguments(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--text",
        nargs="+",
        required=True,
        metavar="PATH",
        help="text files or directories to train on, UTF-8, plain or .gz; hidden files in directories are left out",
    )
    parser.add_argument(
        "--documents",
        choices=["blocks", "files"],
        default="blocks",
        help="blocks: blank lines separate documents; files: one document per file (default: %(default)s)",
    )
    parser.add_argument(
        "--valid", nargs="+", metavar="PATH", help="validation text, instead of taking documents out of --text"
    )
    parser.add_argument(
        "--valid-fraction",
        type=float,
        default=0.01,
        metavar="F",
        help="part of the documents, at least one, to draw for validation; 0: no validation set (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=int, default=1, help="of the draw of validation documents and of lines (default: %(default)s)"
    )
    tokenizer = parser.add_mutually_exclusive_group(required=True)
    tokenizer.add_argument(
        "--vocab-size",
        type=binarize.positive,
        metavar="N",
        help="train a sentencepiece model of N pieces, its 3 special ones included; the dictionary has N + 3 symbols",
    )
    tokenizer.add_argument("--sentencepiece-model", metavar="FILE", help="use this sentencepiece model")
    tokenizer.add_argument(
        "--wordpiece-vocab",
        metavar="FILE",
        help="use WordPiece with this vocab.txt; see --bpe pmlm_wordpiece for upper and lower case",
    )
    tokenizer.add_argument(
        "--vocab-from",
        metavar="DIR",
        help="use the dict.txt and the tokenizer file in this directory: those of the model to train on",
    )
    parser.add_argument(
        "--character-coverage",
        type=float,
        default=0.9995,
        metavar="F",
        help="part of all characters that the model knows, the rarest being left out; 1 for all (default: %(default)s)",
    )
    parser.add_argument(
        "--byte-fallback",
        action="store_true",
        help="spell characters that the model does not know as bytes: 256 more pieces, and nothing is unknown",
    )
    parser.add_argument(
        "--sentencepiece-lines",
        type=binarize.positive,
        default=2_000_000,
        metavar="N",
        help="lines drawn at random to train the sentencepiece model on; bounds its memory (default: %(default)s)",
    )
    binarize.add_common_arguments(parser)
    args = parser.parse_args(argv)
    if not 0 <= args.valid_fraction < 1:
        parser.error("--valid-fraction must be at least 0 and less than 1")
    if not 0.9 <= args.character_coverage <= 1:
        parser.error("--character-coverage must be between 0.9 and 1")
    return args


def write_text(paths: list[str], target: str, args: argparse.Namespace) -> Counts:
    """Copy the documents under *paths* into one file of clean lines, an empty line after each document."""
    counts = Counts()
    with open(target, "w", encoding="utf-8", newline="\n") as f:
        for line in read_documents(paths, args.documents, counts):
            f.write(line + "\n")
    if not counts.lines:
        raise PMLMError(f"no text in {', '.join(paths[:3])}{' ...' if len(paths) > 3 else ''}: the corpus is empty")
    return counts


def split(source: str, train: str, valid: str, documents: int, args: argparse.Namespace) -> dict[str, int]:
    """Move randomly drawn documents of *source* to *valid* and all others to *train*; returns the number of each."""
    number = max(1, round(documents * args.valid_fraction))
    if number >= documents:
        raise PMLMError(
            f"the corpus is {documents} document{'s' if documents > 1 else ''}, too few to take {number} out for "
            "validation; put blank lines between documents, or use --documents files, --valid or --valid-fraction 0"
        )
    drawn = set(random.Random(args.seed).sample(range(documents), number))
    document = 0
    with (
        open(train, "w", encoding="utf-8", newline="\n") as train_file,
        open(valid, "w", encoding="utf-8", newline="\n") as valid_file,
    ):
        for _, line in read_lines(source):
            (valid_file if document in drawn else train_file).write(line + "\n")
            document += not line
    os.remove(source)
    return {"train": documents - number, "valid": number}


def training_lines(path: str) -> Iterator[str]:
    """Lines for sentencepiece, the long ones cut at spaces."""
    for _, line in read_lines(path):
        line = line.replace("\u2585", " ")  # sentencepiece's own separator: it would skip the whole line
        line = SPELLED.sub(lambda match: " ".join(match.group()), line)  # it would not learn these characters
        while len(line) > LONGEST:
            cut = line.rfind(" ", 1, LONGEST)
            cut = cut if cut > 0 else LONGEST
            yield line[:cut]
            line = line[cut:]
        if line.strip():
            yield line


def train_sentencepiece(source: str, target: str, args: argparse.Namespace) -> None:
    """Train a unigram model on the lines of *source*.

    Raises:
        PMLMError: the text does not fit --vocab-size (the message says what would), or sentencepiece failed otherwise.
    """
    model = io.BytesIO()  # written to a file by itself, the model would hold that file's name
    sentencepiece.set_random_generator_seed(args.seed)
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=training_lines(source),
            model_writer=model,
            model_type="unigram",
            vocab_size=args.vocab_size,
            character_coverage=args.character_coverage,
            byte_fallback=args.byte_fallback,
            input_sentence_size=args.sentencepiece_lines,
            shuffle_input_sentence=True,
            max_sentence_length=8 * LONGEST,  # bytes
            num_threads=8,  # a constant: sums of floats depend on it
            minloglevel=2,
        )
    except PMLMError:
        raise
    except Exception as error:  # whatever sentencepiece raises; the useful part is its text
        message = str(error)
        most = re.search(r"too high \(\d+\)\. Please set it to a value <= (\d+)", message)
        least = re.search(r"smaller than required_chars\. \d+ vs (\d+)", message)
        if most:
            hint = f"the text is too small for it; at most {most.group(1)}"
        elif least:
            hint = f"the text has that many characters; at least {least.group(1)}, or lower --character-coverage"
        elif "all_chars_count" in message or "sentences_" in message:
            hint = "there is no text to train on"
        else:
            hint = describe(error)
        raise PMLMError(f"cannot train sentencepiece with --vocab-size {args.vocab_size}: {hint}") from None
    with open(target, "wb") as f:
        f.write(model.getvalue())


def main(argv=None) -> None:
    install_excepthook()
    args = parse_arguments(argv)
    given, dictionary = args.sentencepiece_model or args.wordpiece_vocab, None
    name = "sentencepiece.model" if args.sentencepiece_model else "vocab.txt"
    if args.vocab_from:
        dictionary, given = binarize.find_vocabulary(args.vocab_from)
        name = os.path.basename(given)
    elif given:
        tokenizer_files.load(given, name)  # fail before the long part
    files = {"train": list_files(args.text)}
    if args.valid:
        files["valid"] = list_files(args.valid)
        both = {os.path.realpath(f) for f in files["train"]} & {os.path.realpath(f) for f in files["valid"]}
        if both:
            raise PMLMError(f"{min(both)} is both in --text and in --valid")

    with binarize.building(args.destdir, args.overwrite) as folder:
        encoded = os.path.join(folder, binarize.ENCODED)
        os.mkdir(encoded)
        raw = {name: os.path.join(folder, f"{name}.raw") for name in ("train", "valid")}
        counts = {name: write_text(files[name], raw[name], args) for name in files}
        documents = {name: count.documents for name, count in counts.items()}
        if not args.valid and args.valid_fraction:
            everything = os.path.join(folder, "all.raw")
            os.rename(raw["train"], everything)
            documents = split(everything, raw["train"], raw["valid"], documents["train"], args)

        if given:
            model = tokenizer_files.copy(given, folder, name)
        else:
            model = os.path.join(folder, "sentencepiece.model")
            print(f"training sentencepiece, {args.vocab_size} pieces ...", flush=True)
            train_sentencepiece(raw["train"], model, args)

        results = {}
        total = sum(count.lines + count.documents for count in counts.values())
        for name in documents:
            target = os.path.join(encoded, name)
            results[name] = binarize.encode_file(raw[name], target, model, args.workers, total, f"encoding {name}")
            os.remove(raw[name])
            if not results[name].tokens:
                raise PMLMError(f"the {name} text is empty once the tokenizer has normalized it")
        if dictionary:
            shutil.copyfile(dictionary, os.path.join(folder, "dict.txt"))
        else:
            counted = results["train"].symbols
            write_dictionary(os.path.join(folder, "dict.txt"), tokenizer_files.symbols(model), counted)

        options = ["--only-source", "--srcdict", "dict.txt"]
        options += [f"--{name}pref={binarize.ENCODED}/{name}" for name in results]
        binarize.run_preprocess(folder, args.destdir, options, args.workers, results)
        if not args.keep_encoded:
            shutil.rmtree(encoded)

    for name, count in counts.items():
        print(
            f"read {name}: {count.files} files ({count.empty_files} empty), {count.bytes} bytes, {count.documents} "
            f"documents, {count.lines} lines; replaced characters: {count.describe_replaced()}"
        )
    for name, result in results.items():
        print(
            f"wrote {name}: {documents[name]} documents, {result.lines} lines (with those between documents), "
            f"{result.tokens} tokens, longest line {result.longest}; unknown: {result.describe_unknown()}; "
            f"lines without any token, left out: {result.vanished}"
        )
    print(f"{args.destdir} is ready for fairseq-train")


if __name__ == "__main__":
    main()
