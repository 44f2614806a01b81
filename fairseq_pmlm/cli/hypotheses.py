"""What fairseq-generate or fairseq-interactive printed, in the order of the inputs: plain text, or JSON lines.

    pmlm hypotheses generate.txt --out hyp.txt
    pmlm hypotheses generate.txt --save-json hyp.jsonl
    pmlm hypotheses interactive.txt --source input.txt --save-json hyp.jsonl

hyp.txt holds the best hypothesis of each input, detokenized, one a line. hyp.jsonl holds an object for each input: id,
source, reference (where there was one) and hypotheses, a list of {text, score}, the best one first; scores are those
that fairseq prints (base 2). fairseq-interactive prints sources as dictionary symbols: those of sentencepiece are put
together again, and --source gives the text itself.
"""

import json
import math
import os
import re
from typing import Any

from ..scoring.hypotheses import Record, read_generate, read_segments
from ..utils.errors import PMLMError
from ..utils.io import check_output, clean_line, write_text
from . import arguments


def as_object(record: Record) -> dict[str, Any]:
    """What JSON says of one input."""
    named = {"id": record.id, "source": record.source, "reference": record.reference}
    # JSON has no infinity: null is the score of a hypothesis that the search's rules made impossible
    hypotheses = [{"text": text, "score": score if math.isfinite(score) else None} for text, score in record.hypotheses]
    return {key: value for key, value in named.items() if value is not None} | {"hypotheses": hypotheses}


def as_line(record: Record) -> str:
    """JSON on one line for everybody: also for those who take U+2028 for the end of one."""
    text = json.dumps(as_object(record), ensure_ascii=False, allow_nan=False)
    return re.sub("[\\x85\\u2028\\u2029]", lambda match: f"\\u{ord(match[0]):04x}", text)


def main(argv: list[str]) -> None:
    """Run the command with *argv*, the arguments behind its name."""
    parser = arguments.command_parser("hypotheses", __doc__)
    parser.add_argument("output", metavar="OUTPUT", help="what fairseq-generate or fairseq-interactive printed")
    parser.add_argument("--out", metavar="FILE", help="write the best hypotheses here, one a line")
    parser.add_argument(
        "--source", metavar="FILE", help="what the hypotheses were made from, one text a line, for --save-json"
    )
    parser.add_argument("--save-json", metavar="FILE", help="write JSON lines here, with all hypotheses and scores")
    args = parser.parse_args(argv)
    if not args.out and not args.save_json:
        parser.error("give --out FILE, --save-json FILE or both")
    if args.source and not args.save_json:
        parser.error("--source is for --save-json")
    check_output(args.out, args.output, args.source)
    check_output(args.save_json, args.output, args.source, option="--save-json")
    if args.out and args.save_json and os.path.realpath(args.out) == os.path.realpath(args.save_json):
        raise PMLMError(f"--out and --save-json are both {args.out}; give two files")
    records = read_generate(args.output)
    if args.source:
        sources = read_segments(args.source)
        if len(sources) != len(records):
            raise PMLMError(f"{args.output} has {len(records)} inputs but {args.source} has {len(sources)} lines")
        records = [record._replace(source=source) for record, source in zip(records, sources, strict=True)]
    if args.out:
        write_text(args.out, "".join(f"{clean_line(record.hypotheses[0][0])}\n" for record in records))
    if args.save_json:
        write_text(args.save_json, "".join(f"{as_line(record)}\n" for record in records))
    empty = sum(not record.hypotheses[0][0].strip() for record in records)
    print(f"{len(records):,} inputs" + (f", {empty:,} of them with an empty hypothesis" if empty else ""))
