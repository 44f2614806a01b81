#!/usr/bin/env python
"""The entries of a dictionary in the format of dictd: a line each, an empty line after each.

    python experiments/entries.py /usr/share/dictd/wn.dict.dz --out wn.txt

An entry begins at a line that is not indented, and is written as one line, without braces, pronunciations between
backslashes, and notes in brackets of where a sense is from. Entries of fewer than eight words, and those that are not
ASCII, are left out; how many is printed.
"""

import argparse
import gzip
import re
import zlib
from collections.abc import Iterator

from fairseq_pmlm.utils.errors import PMLMError, first_line, install_excepthook
from fairseq_pmlm.utils.io import check_output, write_text

MARKS = re.compile(r"\[(?:1913 Webster|PJC|WordNet 1\.5|Webster 1913 Suppl\.)[^\]]*\]|[{}]|\\[^\\]{1,60}\\,?|--")
LEAST_WORDS = 8


def read_entries(path: str) -> Iterator[str]:
    """The entries of *path*, each on one line.

    Raises:
        PMLMError: the file cannot be read, or is not compressed with gzip (as .dz is).
    """
    lines: list[str] = []

    def entry() -> str:
        return " ".join(MARKS.sub(" ", " ".join(lines)).split())

    try:
        # old ones are in Latin 1 here and there
        with gzip.open(path, "rt", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line[:1].strip():
                    if found := entry():
                        yield found
                    lines.clear()
                lines.append(line.strip())
    except (OSError, EOFError, zlib.error) as error:
        raise PMLMError(f"{path}: cannot be read: {first_line(error)}") from error
    if found := entry():
        yield found


def main(argv=None) -> None:
    install_excepthook()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dictionary", help="a .dict.dz file")
    parser.add_argument("--out", required=True, metavar="FILE", help="text to write")
    args = parser.parse_args(argv)
    check_output(args.out, args.dictionary)
    entries = [entry for entry in read_entries(args.dictionary) if not entry.startswith("00-database")]
    kept = [entry for entry in entries if len(entry.split()) >= LEAST_WORDS and entry.isascii()]
    if not kept:
        raise PMLMError(f"{args.dictionary}: none of {len(entries):,} entries can be used")
    write_text(args.out, "\n".join(f"{entry}\n" for entry in kept))
    words = sum(len(entry.split()) for entry in kept)
    print(f"{args.out}: {words:,} words; {len(kept):,} of {len(entries):,} entries")


if __name__ == "__main__":
    main()
