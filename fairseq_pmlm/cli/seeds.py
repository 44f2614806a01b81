"""Mean and standard deviation over trainings that differ in their seeds: a Markdown table of validation results.

    pmlm seeds runs/RTE/logs/seed*.log [--out table.md]
    pmlm seeds runs/squad/answers*/scores.json

Reads the logs of ``fairseq-train --criterion pmlm_sentence_prediction --log-format json --log-file``. Of each
training, the validation with the best ``score`` on its first validation set counts, as that is the checkpoint kept.
Or the scores.json that ``pmlm predict`` writes for SQuAD, and ``pmlm score --save-json``.
"""

from ..reporting.seeds import table
from ..utils.io import check_output, write_output
from . import arguments


def main(argv: list[str]) -> None:
    """Run the command with *argv*, the arguments behind its name."""
    parser = arguments.command_parser("seeds", __doc__)
    parser.add_argument(
        "logs", nargs="+", metavar="LOG", help="logs of trainings, or their scores, in the order of their seeds"
    )
    arguments.add_out_argument(parser)
    args = parser.parse_args(argv)
    check_output(args.out, *args.logs)
    write_output(args.out, table(args.logs))
