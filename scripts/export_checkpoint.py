"""A checkpoint of this package as a Hugging Face folder, or for the authors' sequence-to-sequence code.

    python scripts/export_checkpoint.py --checkpoint checkpoints/pretrained/checkpoint_best.pt \\
        --vocab-from data-bin/corpus --save-dir hugging-face/

DIR then holds config.json, the weights and the tokenizer. Without relative positions it is a BERT that
``transformers.BertForMaskedLM.from_pretrained`` loads (model.safetensors); with them, or with --format unilm, the names
are those of the authors of UniLM (pytorch_model.bin). Importing DIR again gives the same model to the last bit.
"""

import argparse
import os

from fairseq_pmlm.conversion.export import FORMATS, export_checkpoint
from fairseq_pmlm.utils.errors import install_excepthook


def parse_arguments(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--checkpoint", required=True, metavar="FILE", help="a checkpoint of this package")
    add(
        "--vocab-from",
        metavar="DIR",
        help="directory with its dict.txt and tokenizer file, such as the data directory (default: the checkpoint's)",
    )
    add("--format", choices=FORMATS, default="auto", help="default: auto, bert unless it has relative positions")
    add("--save-dir", required=True, metavar="DIR", help="directory to write; appears when complete")
    add("--overwrite", action="store_true", help="replace what an earlier export wrote to --save-dir")
    return parser.parse_args(argv)


def main(argv=None) -> None:
    install_excepthook()
    args = parse_arguments(argv)
    vocab_from = args.vocab_from or os.path.dirname(args.checkpoint) or "."
    print(export_checkpoint(args.checkpoint, vocab_from, args.save_dir, args.format, args.overwrite))


if __name__ == "__main__":
    main()
