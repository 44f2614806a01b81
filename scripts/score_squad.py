"""Exact match and F1 of predictions in SQuAD's official format, as the official scripts compute them, with intervals.

    python scripts/score_squad.py --data dev-v1.1.json --predictions predictions.json
    python scripts/score_squad.py --data dev-v2.0.json --predictions spans.json --na-probs na_probs.json --threshold 0.4

Predictions are a JSON object, id -> text; an empty text is "no answer". With --na-probs (id -> probability that there
is no answer) the best scores and their thresholds are reported, too: then give the best span of every question
(spans.json), as a prediction that is empty already can gain nothing from a threshold.
"""

import argparse
import json
import math

from fairseq_pmlm.scoring.base import Bootstrap
from fairseq_pmlm.scoring.report import as_json, format_table
from fairseq_pmlm.scoring.squad import score_squad
from fairseq_pmlm.squad.reader import SquadFile
from fairseq_pmlm.utils.errors import PMLMError, install_excepthook
from fairseq_pmlm.utils.io import Counts, kind, read_json, write_text


def parse_arguments(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", required=True, metavar="FILE", help="SQuAD's JSON with the references, version 1.1 or 2.0")
    add("--predictions", required=True, metavar="FILE", help="JSON object, id -> text")
    add("--na-probs", metavar="FILE", help="version 2.0: JSON object, id -> probability of no answer")
    add(
        "--threshold",
        type=float,
        metavar="P",
        help="with --na-probs: what has a larger probability counts as no answer (default: 1)",
    )
    add("--bootstrap", metavar="N", type=int, default=1000, help="resamples for the interval, 0: none (default: 1000)")
    add("--confidence", metavar="P", type=float, default=0.95, help="of the interval (default: 0.95)")
    add("--seed", type=int, default=12345, help="of the bootstrap (default: 12345)")
    add("--json", action="store_true", help="print one JSON object instead of the table")
    add("--save-json", metavar="FILE", help="write that object to a file, beside the table")
    return parser.parse_args(argv)


def read_values(path: str, wanted: type) -> dict:
    """The JSON object in a file, all of whose values are of type *wanted*; raises PMLMError naming the first other."""
    content = read_json(path)
    for number, found in content.items():
        numeric = wanted is float and isinstance(found, (int, float)) and not isinstance(found, bool)
        if numeric and not math.isfinite(found):
            raise PMLMError(f"{path}, id {number}: expected a number, found {found}")
        if not numeric and not isinstance(found, wanted):
            raise PMLMError(
                f"{path}, id {number}: expected {'a number' if wanted is float else 'text'}, found {kind(found)}"
            )
    return content


def main(argv=None) -> None:
    install_excepthook()
    args = parse_arguments(argv)
    if args.threshold is not None and not args.na_probs:
        raise PMLMError("--threshold: needs --na-probs")
    if args.threshold is not None and math.isnan(args.threshold):
        raise PMLMError(f"--threshold {args.threshold}: expected a number")
    bootstrap = Bootstrap(args.bootstrap, args.confidence, args.seed)
    file = SquadFile(args.data, Counts())
    if args.na_probs and file.version != "2.0":
        raise PMLMError(f"--na-probs: {args.data} is of version {file.version}, where all questions have answers")
    references = {q.id: [a.text for a in q.answers] for paragraph in file.paragraphs() for q in paragraph.questions}
    predictions = read_values(args.predictions, str)
    probabilities = read_values(args.na_probs, float) if args.na_probs else None
    threshold = 1.0 if args.threshold is None else args.threshold
    scores, thresholds = score_squad(predictions, references, file.version, probabilities, threshold, bootstrap)
    notes = [f"best threshold for {name}: {value:.6g}" for name, value in thresholds.items()]
    strangers = len(predictions.keys() - references.keys())
    if strangers:
        notes.append(f"{strangers:,} predictions are for no question of {args.data}")
    result = json.dumps(as_json({"squad": scores}, notes=notes))
    if args.save_json:
        write_text(args.save_json, f"{result}\n")
    print(result if args.json else format_table(scores, notes=notes))


if __name__ == "__main__":
    main()
