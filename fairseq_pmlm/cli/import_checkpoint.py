"""Make a checkpoint that fairseq's commands take of one of UniLM, MiniLM, BERT, RoBERTa, XLM-R or ELECTRA.

    pmlm import bert-base-uncased/ --save-dir checkpoints/bert
    pmlm import unilm2-base-uncased.bin --config config.json --vocab vocab.txt --save-dir checkpoints/unilm2

DIR then holds model.pt, dict.txt and the tokenizer file: prepare data with ``--vocab-from DIR``, go on training with
``--arch pmlm --arch-from DIR/model.pt --finetune-from-model DIR/model.pt``. The report accounts for every tensor.
Nothing in the checkpoint is executed.
"""

from ..conversion.importing import import_checkpoint
from ..conversion.names import FORMATS
from . import arguments


def main(argv: list[str]) -> None:
    """Run the command with *argv*, the arguments behind its name."""
    parser = arguments.command_parser("import", __doc__)
    add = parser.add_argument
    add(
        "checkpoint",
        metavar="CHECKPOINT",
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
    arguments.add_save_dir_arguments(parser, "import")
    args = parser.parse_args(argv)
    for line in import_checkpoint(args.checkpoint, args.save_dir, args.format, args.config, args.vocab, args.overwrite):
        print(line)
    print(f"{args.save_dir} is ready for --vocab-from, --arch-from and --finetune-from-model")
