"""Draw what runs of ``fairseq-train`` have logged as one page of HTML, which needs no network and runs no script.

    fairseq-train ... --log-format json --log-file RUN_DIR/train.log --save-dir RUN_DIR
    pmlm report RUN_DIR                       # writes RUN_DIR/report.html
    pmlm report RUN_A RUN_B --out compare.html     # side by side

RUN_DIR is a directory, or a log. Of a directory, every file there or in its folder logs/ counts that ends in .log,
.txt, .out or .jsonl: logs of training (--log-format json, from --log-file or the output), the output of
fairseq-generate, whose texts are shown, and scores, as ``pmlm score --save-json`` writes them (.json).
"""

import os
import re

from ..reporting.page import find_runs, page
from ..utils.io import check_output, write_text
from . import arguments


def main(argv: list[str]) -> None:
    """Run the command with *argv*, the arguments behind its name."""
    parser = arguments.command_parser("report", __doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN_DIR", help="directory of a run, or its log")
    parser.add_argument("--out", metavar="FILE", help="page to write (default: report.html in the first RUN_DIR)")
    parser.add_argument(
        "--samples", type=arguments.positive, default=20, metavar="N", help="texts to show (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    runs = find_runs(args.runs)
    first = args.runs[0] if os.path.isdir(args.runs[0]) else os.path.dirname(args.runs[0])
    out = args.out or os.path.join(first, "report.html")
    check_output(out, *args.runs, *(run.log.path for run in runs))
    write_text(out, re.sub("[\ud800-\udfff]", "\ufffd", page(runs, args.samples)))
    print(f"{out}: {len(runs)} run{'s' if len(runs) > 1 else ''}, {sum(len(run.log.train) for run in runs):,} entries")
