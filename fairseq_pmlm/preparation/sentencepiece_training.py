"""Training a sentencepiece model on lines of text, none of which it skips."""

import io
import re
from typing import Iterable, Iterator

import sentencepiece

from ..utils.errors import PMLMError, describe

SPELLED = re.compile("</?s>|<unk>")  # sentencepiece's special pieces
LONGEST = 2000  # characters of a line that sentencepiece trains on at a time; it would skip lines over 4192 bytes


def training_lines(line: str) -> Iterator[str]:
    """A line of text as lines for sentencepiece: a long one is cut at spaces."""
    line = line.replace("\u2585", " ")  # sentencepiece's own separator: it would skip the whole line
    line = SPELLED.sub(lambda match: " ".join(match.group()), line)  # it would not learn these characters
    while len(line) > LONGEST:
        cut = line.rfind(" ", 1, LONGEST)
        cut = cut if cut > 0 else LONGEST
        yield line[:cut]
        line = line[cut:]
    if line.strip():
        yield line


def train(
    lines: Iterable[str],
    target: str,
    vocab_size: int,
    most: int,
    seed: int,
    character_coverage: float,
    byte_fallback: bool,
) -> None:
    """Train a unigram model on lines of :func:`training_lines`, at most *most*, and write it to *target*.

    Raises:
        PMLMError: the text does not fit --vocab-size (the message says what would), or sentencepiece failed otherwise.
    """
    model = io.BytesIO()  # written to a file by itself, the model would hold that file's name
    sentencepiece.set_random_generator_seed(seed)
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            model_type="unigram",
            vocab_size=vocab_size,
            character_coverage=character_coverage,
            byte_fallback=byte_fallback,
            input_sentence_size=most,
            shuffle_input_sentence=True,
            max_sentence_length=8 * LONGEST,  # bytes
            num_threads=8,  # a constant: sums of floats depend on it
            minloglevel=2,
        )
    except Exception as error:  # whatever sentencepiece raises; the useful part is its text
        message = str(error)
        highest = re.search(r"too high \(\d+\)\. Please set it to a value <= (\d+)", message)
        lowest = re.search(r"smaller than required_chars\. \d+ vs (\d+)", message)
        if highest:
            hint = f"the text is too small for it; at most {highest[1]}"
        elif lowest:
            hint = f"the text has more characters than that; at least {lowest[1]}, or lower --character-coverage"
        elif "all_chars_count" in message or "sentences_" in message:
            hint = "there is no text to train on"
        else:
            hint = describe(error)
        raise PMLMError(f"cannot train sentencepiece with --vocab-size {vocab_size}: {hint}") from None
    with open(target, "wb") as f:
        f.write(model.getvalue())
