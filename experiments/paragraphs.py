#!/usr/bin/env python
"""The paragraphs of prose in HTML pages: a line each, an empty line after each page.

    python experiments/paragraphs.py /usr/share/doc/git-doc --out git.txt --skip '*/translations/*'

A paragraph is what a <p> holds, without what is set in <pre>. It counts as prose with eight words or more, at least
four fifths of them of letters alone, and a mark at its end. How much is left out is printed.
"""

import argparse
import fnmatch
import re
from html.parser import HTMLParser
from pathlib import Path

from tqdm import tqdm

from fairseq_pmlm.utils.errors import PMLMError, install_excepthook
from fairseq_pmlm.utils.io import check_output, list_files, reading, write_text

WORD = re.compile(r"[\"'“‘(\[]*[^\W\d_]+(?:['’-][^\W\d_]+)*['’”\")\]]*[.,;:!?]*['’”\")\]]*")
END = re.compile(r"[.!?:][\"'”)\]]*$")
LEAST_WORDS, LEAST_PROSE = 8, 0.8


class Paragraphs(HTMLParser):
    """Collects the text of the <p> of a page in ``found``."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.found: list[str] = []
        self.inside, self.verbatim = False, 0

    def handle_starttag(self, tag, attrs):
        if tag == "p":  # which ends the one before
            self.handle_endtag("p")
            self.inside = True
            self.found.append("")
        elif tag in ("pre", "script", "style"):
            self.verbatim += 1

    def handle_endtag(self, tag):
        if tag == "p" and self.inside:
            self.inside = False
            self.found[-1] = " ".join(self.found[-1].split())
        elif tag in ("pre", "script", "style"):
            self.verbatim = max(0, self.verbatim - 1)

    def handle_data(self, data):
        if self.inside and not self.verbatim:
            self.found[-1] += data

    def parse_marked_section(self, i, report=1):
        try:
            return super().parse_marked_section(i, report)
        except AssertionError:  # <![ and a word that it does not know: a comment, as browsers take it
            return self.parse_bogus_comment(i)


def is_prose(paragraph: str) -> bool:
    """Whether a paragraph is made of sentences."""
    words = paragraph.split()
    plain = sum(WORD.fullmatch(word) is not None for word in words)
    return len(words) >= LEAST_WORDS and plain >= LEAST_PROSE * len(words) and END.search(paragraph) is not None


def main(argv=None) -> None:
    install_excepthook()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="+", help="HTML files, or directories with .html files")
    parser.add_argument("--out", required=True, metavar="FILE", help="text to write")
    parser.add_argument("--skip", nargs="*", default=[], metavar="PATTERN", help="paths to leave out, as in a shell")
    args = parser.parse_args(argv)
    pages = [page for page in list_files(args.pages) if page.endswith((".html", ".htm"))]
    pages = [page for page in pages if not any(fnmatch.fnmatch(page, pattern) for pattern in args.skip)]
    check_output(args.out, *pages)
    if not pages:
        raise PMLMError(f"{' '.join(args.pages)}: no .html files")
    documents, paragraphs = [], 0
    for page in tqdm(pages, unit="page", desc=Path(args.out).stem, mininterval=1, leave=False):
        parser = Paragraphs()
        with reading(page) as file:
            parser.feed(file.read().decode("utf-8", errors="replace"))
        parser.handle_endtag("p")
        paragraphs += len(parser.found)
        if lines := [paragraph for paragraph in parser.found if is_prose(paragraph)]:
            documents.append(lines)
    if not documents:
        raise PMLMError(f"{' '.join(args.pages)}: no prose in {len(pages):,} pages")
    write_text(args.out, "\n".join("".join(f"{line}\n" for line in lines) for lines in documents))
    kept, words = sum(map(len, documents)), sum(len(line.split()) for lines in documents for line in lines)
    print(
        f"{args.out}: {words:,} words; {kept:,} of {paragraphs:,} paragraphs, "
        f"{len(documents):,} of {len(pages):,} pages"
    )


if __name__ == "__main__":
    main()
