#!/usr/bin/env python
"""From ``fairseq-train`` to the first update: time and memory with a small and with a large corpus.

    python benchmarks/startup.py DATA --gigabytes 0.01 10

DATA is a directory of pmlm prepare text; its training text is repeated until the binarized file has the
size asked for. Files are made in --directory (default: where temporary files go), and removed.
"""

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time

import fairseq_pmlm.tasks  # noqa: F401  (before fairseq, whose imports it keeps quiet)

# isort: split
import numpy as np
from fairseq.data.indexed_dataset import MMapIndexedDataset
from tqdm import tqdm


def repeat(data: str, bytes_wanted: float, directory: str) -> int:
    """Write ``train.bin`` and ``train.idx`` with the training text of *data* repeated; return the number of lines."""
    shutil.copy(os.path.join(data, "dict.txt"), directory)
    text = MMapIndexedDataset(os.path.join(data, "train"))
    with open(os.path.join(data, "train.bin"), "rb") as file:
        once = file.read()
    times = max(1, round(bytes_wanted / len(once)))
    with open(os.path.join(directory, "train.bin"), "wb") as file:
        for _ in tqdm(range(times), desc="repeating", unit="time", leave=False, mininterval=2):
            file.write(once)
    dtype = text._index.dtype
    with MMapIndexedDataset.Index.writer(os.path.join(directory, "train.idx"), dtype) as index:
        sizes = np.tile(text.sizes, times)
        index._get_pointers = lambda sizes: (
            np.cumsum(sizes, dtype=np.int64) * dtype().itemsize - (sizes.astype(np.int64) * dtype().itemsize)
        )  # fairseq's takes a loop
        index.write(sizes)
    return len(sizes)


def first_update(directory: str) -> tuple[float, float]:
    """Seconds until one update is done, and the peak of the memory, in bytes."""
    command = [sys.executable, "-m", "fairseq_cli.train", directory, "--user-dir", "fairseq_pmlm", "--cpu"]
    command += ["--task", "pmlm", "--criterion", "pmlm", "--arch", "pmlm_tiny", "--optimizer", "adam", "--lr", "1e-4"]
    command += ["--max-tokens", "8000", "--max-update", "1", "--disable-validation", "--no-save", "--num-workers", "0"]
    start = time.perf_counter()
    peak = 0
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        while process.poll() is None:  # what the system says of a process that has ended counts its parent's memory too
            with contextlib.suppress(OSError), open(f"/proc/{process.pid}/status", encoding="ascii") as status:
                peak = max([peak, *(int(line.split()[1]) for line in status if line.startswith("VmHWM"))])
            time.sleep(0.05)
        seconds = time.perf_counter() - start
        if process.returncode:
            output.seek(0)
            raise SystemExit(output.read()[-3000:])
    return seconds, peak * 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", metavar="DATA", help="prepared text")
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[0.01, 10], help="sizes (default: 0.01 10)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each, in turns (default: %(default)s)")
    parser.add_argument("--directory", help="where to put the files")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.directory) as parent:
        made = {}
        for size in args.gigabytes:
            directory = os.path.join(parent, f"{size}")
            os.mkdir(directory)
            made[size] = directory, repeat(args.data, size * 1e9, directory)
        found = {size: [] for size in made}
        for _ in range(args.rounds):
            for size, (directory, _) in made.items():
                found[size].append(first_update(directory))
        print("| binarized text, GB | lines | seconds to the first update | peak memory, MB |\n|---|---|---|---|")
        for size, (directory, lines) in made.items():
            seconds, memory = np.median(found[size], axis=0)
            real = os.path.getsize(os.path.join(directory, "train.bin")) / 1e9
            print(f"| {real:.2f} | {lines:,} | {seconds:.1f} | {memory / 1e6:,.0f} |")


if __name__ == "__main__":
    main()
