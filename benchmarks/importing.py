"""How long importing takes, and how much memory: a random BERT, as a .bin and as a .safetensors file.

    python benchmarks/importing.py [--layers 12] [--width 768] [--types 30522]

Each file is imported in a process of its own. Printed are the seconds of the import itself, without starting Python,
and the most memory that the process held, in MB and as a multiple of the file's size; what it held before the import
(Python with its libraries) is printed beside it.
"""

import argparse
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any, Callable

from fairseq_pmlm.conversion.importing import import_checkpoint
from fairseq_pmlm.tokenizers.wordpiece import SPECIAL_PIECES
from fairseq_pmlm.utils.errors import install_excepthook


def parse_arguments(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12, metavar="N", help="default: 12")
    parser.add_argument("--width", type=int, default=768, metavar="N", help="a multiple of 64; default: 768")
    parser.add_argument("--types", type=int, default=30522, metavar="N", help="pieces in the vocabulary")
    return parser.parse_args(argv)


def write_models(folder: str, layers: int, width: int, types: int) -> dict[str, str]:
    """A random BERT in both formats, each in a folder of its own; returns the files by their folders."""
    import torch
    from safetensors.torch import load_file
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(
        vocab_size=types,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        intermediate_size=4 * width,
    )
    torch.manual_seed(1)
    folders = {kind: os.path.join(folder, kind) for kind in ("bin", "safetensors")}
    BertForMaskedLM(config).save_pretrained(folders["safetensors"])
    os.makedirs(folders["bin"])
    config.save_pretrained(folders["bin"])
    for its_folder in folders.values():
        pieces = [*SPECIAL_PIECES, *(f"w{i}" for i in range(types - len(SPECIAL_PIECES)))]
        with open(os.path.join(its_folder, "vocab.txt"), "w", encoding="utf-8") as f:
            f.writelines(f"{piece}\n" for piece in pieces)
    file = os.path.join(folders["safetensors"], "model.safetensors")
    torch.save(load_file(file), os.path.join(folders["bin"], "pytorch_model.bin"))
    return {folders["bin"]: "pytorch_model.bin", folders["safetensors"]: "model.safetensors"}


def peak() -> int:
    """Bytes: the most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measure(checkpoint: str, save_dir: str) -> dict[str, float]:
    """Import *checkpoint*; seconds, and bytes before and at most."""
    before, start = peak(), time.perf_counter()
    import_checkpoint(checkpoint, save_dir)
    return {"seconds": time.perf_counter() - start, "before": before, "peak": peak()}


def alone(function: Callable, *args) -> Any:
    """What *function* returns in a new process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def main(argv=None) -> None:
    install_excepthook()
    args = parse_arguments(argv)
    with tempfile.TemporaryDirectory() as folder:
        # not in this process: one that it starts would count this one's peak as its own
        written = alone(write_models, folder, args.layers, args.width, args.types)
        for path, name in written.items():
            size = os.path.getsize(os.path.join(path, name))
            found = alone(measure, path, os.path.join(path, "imported"))
            print(
                f"{name}: {size / 1e6:.0f} MB, {found['seconds']:.1f} s, at most {found['peak'] / 1e6:.0f} MB = "
                f"{found['peak'] / size:.2f} times the file; before the import {found['before'] / 1e6:.0f} MB"
            )


if __name__ == "__main__":
    main()
