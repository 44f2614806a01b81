"""Scores hypotheses against one or several reference files: ROUGE, BLEU, chrF with bootstrap intervals.

python scripts/score.py --metric rouge --hyp hyp.txt --ref ref.txt
python scripts/score.py --metric bleu --metric chrf --hyp hyp.txt --ref ref1.txt --ref ref2.txt --json
python scripts/score.py --metric rouge --tokenizer intl --hyp-from-generate generate-test.txt --ref ref.txt

All files hold one segment per line, in UTF-8. The signature below the table says how the numbers were made: quote it.
"""

import argparse
import json
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works from a checkout that was not installed
logging.getLogger("fairseq").setLevel(logging.WARNING)  # or its import reports a missing tensorboardX

from fairseq_pmlm.errors import PMLMError, install_excepthook  # noqa: E402
from fairseq_pmlm.hypotheses import read_generate_output, read_segments  # noqa: E402
from fairseq_pmlm.scoring import (  # noqa: E402
    format_table,
    score_bleu,
    score_chrf,
    score_rouge,
)

METRICS = ["rouge", "bleu", "chrf"]


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--metric", action="append", required=True, help="rouge, bleu or chrf; may be repeated")
    hypotheses = parser.add_mutually_exclusive_group(required=True)
    hypotheses.add_argument("--hyp", metavar="FILE", help="hypotheses, one per line")
    hypotheses.add_argument("--hyp-from-generate", metavar="FILE", help="output of fairseq-generate (its D- lines)")
    add("--ref", metavar="FILE", action="append", required=True, help="references, one per line; may be repeated")
    add("--tokenizer", help="default, intl, char or spm, for ROUGE and BLEU (default: default)")
    add("--sentencepiece-model", metavar="FILE", help="model for --tokenizer spm")
    add("--stem", action="store_true", help="stem English words in ROUGE (Porter)")
    add("--bootstrap", metavar="N", type=int, default=1000, help="resamples for the interval, 0: none (default: 1000)")
    add("--confidence", metavar="P", type=float, default=0.95, help="of the interval (default: 0.95)")
    add("--seed", type=int, default=12345, help="of the bootstrap (default: 12345)")
    add("--json", action="store_true", help="print one JSON object instead of the table")
    return parser.parse_args(argv)


def main(argv=None) -> None:
    install_excepthook()
    args = parse_args(argv)
    metrics = list(dict.fromkeys(args.metric))
    check_options(args, metrics)

    path = args.hyp or args.hyp_from_generate
    hypotheses = read_segments(path) if args.hyp else read_generate_output(path)
    references = [read_segments(reference) for reference in args.ref]
    for name, reference in zip(args.ref, references, strict=True):
        if len(reference) != len(hypotheses):
            raise PMLMError(f"{path} has {len(hypotheses)} hypotheses but {name} has {len(reference)} lines")

    bootstrap = {"bootstrap": args.bootstrap, "confidence": args.confidence, "seed": args.seed}
    tokenizer = {"tokenizer": args.tokenizer, "sentencepiece_model": args.sentencepiece_model}
    score = {
        "rouge": lambda: score_rouge(hypotheses, references, stem=args.stem, **tokenizer, **bootstrap),
        "bleu": lambda: score_bleu(hypotheses, references, **tokenizer, **bootstrap),
        "chrf": lambda: score_chrf(hypotheses, references, **bootstrap),
    }
    scores = {metric: score[metric]() for metric in metrics}

    if not args.json:
        print(format_table(*scores.values()))
        return
    first = scores[metrics[0]]
    result = {
        "scores": {
            name: {"score": value.mean, "low": value.low, "high": value.high}
            for part in scores.values()
            for name, value in part.values.items()
        },
        "signatures": {metric: part.signature for metric, part in scores.items()},
        "confidence": args.confidence,
        "segments": first.segments,
        "empty": first.empty,
    }
    print(json.dumps(result))


def check_options(args: argparse.Namespace, metrics: list[str]) -> None:
    """Raise PMLMError for an unknown metric, and for an option that no metric asked for would read."""
    for metric in metrics:
        if metric not in METRICS:
            raise PMLMError(f"--metric {metric}: unknown; there are {', '.join(METRICS)}")
    if args.stem and "rouge" not in metrics:
        raise PMLMError("--stem: is for --metric rouge only")
    if (args.tokenizer or args.sentencepiece_model) and metrics == ["chrf"]:
        raise PMLMError("--tokenizer: chrf works on characters and has none")


if __name__ == "__main__":
    main()
