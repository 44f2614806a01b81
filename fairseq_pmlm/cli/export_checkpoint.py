"""A checkpoint of this package as a Hugging Face folder, or for the authors' sequence-to-sequence code.

    pmlm export checkpoints/pretrained/checkpoint_best.pt --vocab-from data-bin/corpus --save-dir hugging-face/

DIR then holds config.json, the weights and the tokenizer. Without relative positions it is a BERT that
``transformers.BertForMaskedLM.from_pretrained`` loads (model.safetensors); with them, or with --format unilm, the names
are those of the authors of UniLM (pytorch_model.bin). Importing DIR again gives the same model to the last bit.
"""

import os

from ..conversion.export import FORMATS, export_checkpoint
from . import arguments


def main(argv: list[str]) -> None:
    """Run the command with *argv*, the arguments behind its name."""
    parser = arguments.command_parser("export", __doc__)
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a checkpoint of this package")
    parser.add_argument(
        "--vocab-from",
        metavar="DIR",
        help="directory with its dict.txt and tokenizer file, such as the data directory (default: the checkpoint's)",
    )
    parser.add_argument(
        "--format", choices=FORMATS, default="auto", help="default: auto, bert unless it has relative positions"
    )
    arguments.add_save_dir_arguments(parser, "export")
    args = parser.parse_args(argv)
    vocab_from = args.vocab_from or os.path.dirname(args.checkpoint) or "."
    print(export_checkpoint(args.checkpoint, vocab_from, args.save_dir, args.format, args.overwrite))
