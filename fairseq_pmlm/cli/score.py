"""Scores hypotheses against one or several reference files: intervals, comparisons, the published presets.

    pmlm score --metric rouge --hyp hyp.txt --ref ref.txt
    pmlm score --metric bleu --metric chrf --hyp hyp.txt --ref ref1.txt --ref ref2.txt --json
    pmlm score --metric rouge --tokenizer intl --hyp-from-generate generate-test.txt --ref ref.txt
    pmlm score --preset cnndm --hyp-from-generate generate-test.txt --ref test.target
    pmlm score --metric rouge --hyp hyp.txt --compare other.txt --ref ref.txt
    pmlm score --metric squad --hyp answers/predictions.json --ref dev-v1.1.json
    pmlm score --metric squad --hyp answers/spans.json --ref dev-v2.0.json --na-probs answers/na_probs.json

All files hold one segment per line, in UTF-8. The signature below the table says how the numbers were made: quote it.
A preset post-processes both sides as published for its data set, and has metrics of its own if none is asked for.

--metric squad is exact match and F1 as the official scripts compute them. Hypotheses are in SQuAD's official format, a
JSON object, id -> text, in which an empty text is "no answer"; references are SQuAD's JSON. With --na-probs (id ->
probability that there is no answer) the best scores and their thresholds are reported, too: then give the best span of
every question (spans.json), as a prediction that is empty already can gain nothing from a threshold.
"""

import argparse
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from ..scoring.base import Bootstrap, Scores
from ..scoring.bleu import score_bleu, score_chrf
from ..scoring.compare import Difference, compare
from ..scoring.hypotheses import read_generate_output, read_segments
from ..scoring.meteor import missing_meteor, score_meteor
from ..scoring.presets import PRESETS, find_preset, prepare
from ..scoring.report import as_json, format_table
from ..scoring.rouge import score_rouge
from ..scoring.statistics import text_statistics
from ..utils.errors import PMLMError
from ..utils.io import check_output, write_text
from . import arguments
from .score_squad import score_answers

METRICS = ["rouge", "bleu", "chrf", "meteor", "stats", "squad"]


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    """Options from *argv*, checked as far as they can be without reading anything."""
    parser = arguments.command_parser("score", __doc__)
    add = parser.add_argument
    add("--metric", action="append", default=[], help=f"{', '.join(METRICS)}; may be repeated")
    add("--preset", help=f"post-process and score as published: {', '.join(PRESETS)}")
    hypotheses = parser.add_mutually_exclusive_group(required=True)
    hypotheses.add_argument("--hyp", metavar="FILE", help="hypotheses, one per line; of squad, JSON")
    hypotheses.add_argument("--hyp-from-generate", metavar="FILE", help="output of fairseq-generate (its D- lines)")
    others = parser.add_mutually_exclusive_group()
    others.add_argument("--compare", metavar="FILE", help="hypotheses of another system: test the difference")
    others.add_argument("--compare-from-generate", metavar="FILE", help="the same, as output of fairseq-generate")
    add(
        "--ref",
        metavar="FILE",
        action="append",
        required=True,
        help="references, one per line; may be repeated; of squad, JSON",
    )
    add("--tokenizer", help="default, intl, char, none or spm, for ROUGE, BLEU and stats (default: default)")
    add("--sentencepiece-model", metavar="FILE", help="model for --tokenizer spm")
    add("--stem", action="store_true", help="stem English words in ROUGE (Porter)")
    add(
        "--word-limit",
        metavar="N",
        type=int,
        help="of --preset cnndm: cut hypotheses at N words (default: 160; 0: not)",
    )
    add("--meteor", default="1.5", help="1.5: METEOR 1.5 as published (Java); nltk: nltk's (default: 1.5)")
    add("--bootstrap", metavar="N", type=int, default=1000, help="resamples for the interval, 0: none (default: 1000)")
    add("--confidence", metavar="P", type=float, default=0.95, help="of the interval (default: 0.95)")
    add("--seed", type=int, default=12345, help="of the bootstrap (default: 12345)")
    add("--json", action="store_true", help="print one JSON object instead of the table")
    arguments.add_save_json_argument(parser, "that object")
    squad = parser.add_argument_group("--metric squad")
    squad.add_argument("--na-probs", metavar="FILE", help="version 2.0: JSON object, id -> probability of no answer")
    squad.add_argument(
        "--threshold",
        type=float,
        metavar="P",
        help="with --na-probs: what has a larger probability counts as no answer (default: 1)",
    )
    return parser.parse_args(argv)


def main(argv: list[str]) -> None:
    """Run the command with *argv*, the arguments behind its name."""
    args = parse_arguments(argv)
    metrics = list(dict.fromkeys(args.metric))
    check_options(args, metrics)
    others = (args.compare, args.compare_from_generate, args.na_probs, args.sentencepiece_model)
    check_output(args.save_json, args.hyp, args.hyp_from_generate, *args.ref, *others, option="--save-json")
    bootstrap = Bootstrap(args.bootstrap, args.confidence, args.seed)
    if metrics == ["squad"]:
        scores, notes = score_answers(args.hyp, args.ref[0], args.na_probs, args.threshold, bootstrap)
        show(args, {"squad": scores}, {}, notes)
    else:
        show(args, *score_texts(args, metrics, bootstrap))


def show(
    args: argparse.Namespace, scores: dict[str, Scores], differences: dict[str, Difference], notes: list[str]
) -> None:
    """Print, and write to --save-json, what was found; arguments as :func:`score_texts` returns them."""
    result = json.dumps(as_json(scores, differences, notes))
    if args.save_json:
        write_text(args.save_json, f"{result}\n")
    print(result if args.json else format_table(*scores.values(), differences=differences, notes=notes))


def score_texts(
    args: argparse.Namespace, metrics: list[str], bootstrap: Bootstrap
) -> tuple[dict[str, Scores], dict[str, Difference], list[str]]:
    """Scores of the hypotheses by metric, differences from those of --compare by score, and notes.

    Raises:
        PMLMError: a file cannot be read, or has another number of lines than the references.
    """
    notes: list[str] = []
    if not metrics:
        metrics = list(find_preset(args.preset).metrics)
        missing = missing_meteor() if "meteor" in metrics and args.meteor == "1.5" else None
        if missing:
            metrics.remove("meteor")
            notes.append(f"METEOR is left out: METEOR 1.5 {missing}")

    references = [read_segments(path) for path in args.ref]
    systems = [(args.hyp or args.hyp_from_generate, args.hyp is not None)]
    if args.compare or args.compare_from_generate:
        systems.append((args.compare or args.compare_from_generate, args.compare is not None))
    scores = []
    for path, is_text in systems:
        hypotheses = read_segments(path) if is_text else read_generate_output(path)
        for name, reference in zip(args.ref, references, strict=True):
            if len(reference) != len(hypotheses):
                raise PMLMError(f"{path} has {len(hypotheses)} hypotheses but {name} has {len(reference)} lines")
        found, said = score_system(args, metrics, hypotheses, references, bootstrap)
        scores.append(found)
        notes += [f"{path}: {note}" for note in said] if len(systems) > 1 else said
    first, *others = scores
    differences: dict[str, Difference] = {}
    for other in others:
        for metric in metrics:
            differences |= compare(first[metric], other[metric])
    return first, differences, notes


def score_system(
    args: argparse.Namespace,
    metrics: list[str],
    hypotheses: list[str],
    references: list[list[str]],
    bootstrap: Bootstrap,
) -> tuple[dict[str, Scores], list[str]]:
    """Scores by metric, and notes, of one system."""
    origin: Mapping[str, object] = {}
    notes: list[str] = []
    tokenizer = {"tokenizer": args.tokenizer, "sentencepiece_model": args.sentencepiece_model}
    rouge: Mapping[str, Any] = {**tokenizer, "stem": args.stem}
    bleu: Mapping[str, Any] = tokenizer
    words: Mapping[str, Any] = tokenizer
    if args.preset:
        texts = prepare(args.preset, hypotheses, references, args.word_limit)
        (hypotheses, references), origin, notes = texts.pair, texts.origin, texts.notes
        rouge, bleu, words = texts.preset.rouge, texts.preset.bleu, {"tokenizer": "none"}
    score: dict[str, Callable[[], Scores]] = {
        "rouge": lambda: score_rouge(hypotheses, references, **rouge, bootstrap=bootstrap, origin=origin),
        "bleu": lambda: score_bleu(hypotheses, references, **bleu, bootstrap=bootstrap, origin=origin),
        "chrf": lambda: score_chrf(hypotheses, references, bootstrap=bootstrap, origin=origin),
        "meteor": lambda: score_meteor(hypotheses, references, args.meteor, bootstrap=bootstrap, origin=origin),
        "stats": lambda: text_statistics(hypotheses, references, **words, origin=origin),
    }
    return {metric: score[metric]() for metric in metrics}, notes


def check_options(args: argparse.Namespace, metrics: list[str]) -> None:
    """Raise PMLMError for an unknown metric or preset, and for an option that nothing asked for would read."""
    if not metrics and not args.preset:
        raise PMLMError("give --metric, --preset or both")
    for metric in metrics:
        if metric not in METRICS:
            raise PMLMError(f"--metric {metric}: unknown; there are {', '.join(METRICS)}")
    if "squad" in metrics:
        return check_squad_options(args, metrics)
    for option in ("na_probs", "threshold"):
        if getattr(args, option) is not None:
            raise PMLMError(f"--{option.replace('_', '-')}: is for --metric squad only")
    if args.preset:
        find_preset(args.preset)
        if args.tokenizer or args.sentencepiece_model or args.stem:
            raise PMLMError(f"--preset {args.preset} settles --tokenizer and --stem itself")
    elif args.word_limit is not None:
        raise PMLMError("--word-limit: is for --preset cnndm only")
    if args.stem and "rouge" not in metrics:
        raise PMLMError("--stem: is for --metric rouge only")
    if (args.tokenizer or args.sentencepiece_model) and not {"rouge", "bleu", "stats"} & set(metrics):
        raise PMLMError(f"--tokenizer: {' and '.join(metrics)} have none to choose (chrf works on characters)")
    if args.meteor not in ("1.5", "nltk"):
        raise PMLMError(f"--meteor {args.meteor}: expected 1.5 or nltk")
    if (args.compare or args.compare_from_generate) and metrics == ["stats"]:
        raise PMLMError("--compare: statistics have no test; give another --metric as well")
    if (args.compare or args.compare_from_generate) and not args.bootstrap:
        raise PMLMError("--compare: needs the resamples that --bootstrap 0 leaves out")
    return None


def check_squad_options(args: argparse.Namespace, metrics: list[str]) -> None:
    """The same for ``--metric squad``, which is scored alone."""
    if metrics != ["squad"]:
        raise PMLMError(f"--metric squad: is scored alone, without {', '.join(m for m in metrics if m != 'squad')}")
    if args.hyp is None:
        raise PMLMError("--metric squad: takes --hyp FILE, predictions in SQuAD's official format")
    if len(args.ref) > 1:
        raise PMLMError(f"--metric squad: takes one --ref, SQuAD's JSON, and not {len(args.ref)}")
    texts = ("preset", "compare", "compare_from_generate", "tokenizer", "sentencepiece_model", "stem", "word_limit")
    for option in texts:
        if getattr(args, option) not in (None, False):
            raise PMLMError(f"--{option.replace('_', '-')}: is not for --metric squad")
    if args.threshold is not None and not args.na_probs:
        raise PMLMError("--threshold: needs --na-probs")
    if args.threshold is not None and math.isnan(args.threshold):
        raise PMLMError(f"--threshold {args.threshold}: expected a number")
