"""A checkpoint that you have, of UniLM, MiniLM, BERT, RoBERTa, XLM-R or ELECTRA, to one that fairseq's commands take.

    python scripts/import_checkpoint.py --checkpoint bert-base-uncased/ --save-dir checkpoints/bert
    python scripts/import_checkpoint.py --checkpoint unilm2-base-uncased.bin --config config.json --vocab vocab.txt \\
        --save-dir checkpoints/unilm2

DIR then holds model.pt, dict.txt and the tokenizer file: prepare data with ``--vocab-from DIR``, go on training with
``--arch pmlm --arch-from DIR/model.pt --finetune-from-model DIR/model.pt``. The report accounts for every tensor.
Nothing in the checkpoint is executed.
"""

import argparse

from fairseq_pmlm.conversion.importing import import_checkpoint
from fairseq_pmlm.conversion.names import FORMATS
from fairseq_pmlm.utils.errors import install_excepthook


def parse_arguments(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add(
        "--checkpoint",
        required=True,
        metavar="PATH",
        help="a .bin or .safetensors file, an index of shards, or the folder of one of them",
    )
    add("--format", choices=("auto", *FORMATS), default="auto", help="default: auto, by the names of the tensors")
    add("--config", metavar="FILE", help="config.json (default: the one beside the checkpoint)")
    add(
        "--vocab",
        metavar="FILE",
        help="vocab.txt, a sentencepiece model, vocab.json with merges.txt beside it, or tokenizer.json (default: the "
        "one beside the checkpoint)",
    )
    add("--save-dir", required=True, metavar="DIR", help="directory to write; appears when complete")
    add("--overwrite", action="store_true", help="replace what an earlier import wrote to --save-dir")
    return parser.parse_args(argv)


def main(argv=None) -> None:
    install_excepthook()
    args = parse_arguments(argv)
    for line in import_checkpoint(args.checkpoint, args.save_dir, args.format, args.config, args.vocab, args.overwrite):
        print(line)
    print(f"{args.save_dir} is ready for --vocab-from, --arch-from and --finetune-from-model")


if __name__ == "__main__":
    main()
