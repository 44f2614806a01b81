#!/usr/bin/env python
"""Feed damaged and hostile files to every reader: each must be read, or refused in one clear line that names the file.

    python benchmarks/fuzz_readers.py                     # 11,000 inputs, two minutes
    python benchmarks/fuzz_readers.py --readers squad.json dict.txt --inputs 5000 --seed 7
    python benchmarks/fuzz_readers.py --keep crashes      # keeps what crashed

Inputs are mutations of small valid files: cut, bits flipped, parts left out, doubled or exchanged, nasty Unicode, huge
numbers, deep nesting, values of the wrong type. They depend on --seed, the reader and their number alone. Readers run
in forked processes, with limits on the time and the memory of each input. A crash is any exception but PMLMError, a
message of several lines or without the file's name, the end of the process, or a limit passed. Exits with status 1 if
there is one.
"""

import argparse
import json
import os
import random
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from typing import Optional

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # or it warns about forks

from fairseq_pmlm.utils.errors import PMLMError

# isort: split
import fuzz_checkpoints  # noqa: F401  (registers its readers)
from fuzz_mutations import mutate
from fuzz_seeds import READERS, Reader


@dataclass
class Outcome:
    """What became of the inputs of one reader; seconds and bytes are the largest of any."""

    inputs: int = 0
    accepted: int = 0
    refused: int = 0
    crashes: list[tuple[int, str]] = field(default_factory=list)  # number of the input, and what was raised
    seconds: float = 0.0
    memory: int = 0
    messages: Counter = field(default_factory=Counter)


def make_input(reader: Reader, number: int, seed: int) -> tuple[str, bytes]:
    """Name and content of the damaged file; the first input is the valid one."""
    rng = random.Random(f"{seed} {reader.name} {number}")
    name = rng.choice(reader.mutated)
    seeds = reader.files[name]
    return name, reader.pack(mutate(seeds, reader.kind, rng) if number else seeds)


def warm(name: str) -> Reader:
    """The reader called *name*, which has read its valid files: imports on first use are not to be timed."""
    reader = READERS[name]()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        reader.write(folder, "", b"")
        judge(reader, folder, "")
    return reader


class TimeLimitError(BaseException):
    """The input took too long; nobody may catch this."""


def judge(reader: Reader, folder: str, name: str) -> tuple[str, str]:
    """("accepted" | "refused" | "crash", what was said) of the reader with the files in *folder*."""
    try:
        reader.read(folder)
    except PMLMError as error:
        said = str(error)
        if "\n" in said or len(said) > 2000 or not said.strip():
            return "crash", f"not one clear line: {said[:300]!r}"
        if folder not in said and name not in said:
            return "crash", f"does not name the file: {said[:300]!r}"
        return "refused", said.replace(folder, "DIR")
    except TimeLimitError:
        return "crash", "time limit"
    except BaseException as error:  # a panic of a library in Rust is no Exception
        frames = [f for f in traceback.extract_tb(error.__traceback__) if "fairseq" in f.filename] or [None]
        place = f"{os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames[-1] else "?"
        return "crash", f"{type(error).__name__} at {place}: {str(error)[:200]}"
    return "accepted", ""


def memory(kind: str) -> int:
    """``VmSize``, ``VmRSS`` or its peak ``VmHWM`` of this process in bytes."""
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(kind))


def child(reader: Reader, numbers: range, seed: int, limits: tuple[float, int], folder: str, out: int) -> None:
    """Run inputs and write a line of JSON of each to the pipe *out*: before it, and after it."""
    seconds, room = limits
    now = memory("VmSize")
    resource.setrlimit(resource.RLIMIT_AS, (now + room, now + room))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def ring(signum, frame):
        raise TimeLimitError

    signal.signal(signal.SIGALRM, ring)
    silence = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(silence, descriptor)
    for number in numbers:
        name, content = make_input(reader, number, seed)
        reader.write(folder, name, content)
        os.write(out, (json.dumps({"begins": number}) + "\n").encode())
        with open("/proc/self/clear_refs", "w", encoding="ascii") as f:
            f.write("5")  # the peak begins anew
        before, start = memory("VmRSS"), time.process_time()
        signal.setitimer(signal.ITIMER_REAL, seconds)
        verdict, said = judge(reader, folder, name)
        if not number and verdict == "refused":
            verdict, said = "crash", f"the valid file is refused: {said}"
        signal.setitimer(signal.ITIMER_REAL, 0)
        line = {"number": number, "verdict": verdict, "said": said, "seconds": time.process_time() - start}
        os.write(out, (json.dumps(line | {"memory": max(0, memory("VmHWM") - before)}) + "\n").encode())


def run(reader: Reader, inputs: int, seed: int, limits: tuple[float, int], batch: int = 200) -> Outcome:
    """All inputs of one reader, in forked processes that take *batch* of them each."""
    outcome, first = Outcome(), 0
    while first < inputs:
        numbers = range(first, min(first + batch, inputs))
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
            receiving, sending = os.pipe()
            pid = os.fork()
            if not pid:
                try:
                    os.close(receiving)
                    child(reader, numbers, seed, limits, folder, sending)
                finally:
                    os._exit(0)
            os.close(sending)
            last = follow(receiving, pid, outcome, limits[0])
            _, status = os.waitpid(pid, 0)
        done = numbers.stop if last is None else last + 1
        if last is not None:  # it ended, or had to be, within this input
            outcome.inputs += 1
            ending = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"status {status}"
            outcome.crashes.append((last, f"the process ended: {ending}"))
        if outcome.inputs < done:
            raise RuntimeError(f"{reader.name}: the process ended between two inputs, after {outcome.inputs} of {done}")
        first = done
    return outcome


def follow(pipe: int, pid: int, outcome: Outcome, seconds: float) -> Optional[int]:
    """Read what a child says; the input within which it ended, or None if it came to its end."""
    begun = None
    os.set_blocking(pipe, False)
    buffer, heard = b"", time.monotonic()
    while True:
        try:
            data = os.read(pipe, 1 << 16)
        except BlockingIOError:
            if time.monotonic() - heard > 3 * seconds + 5:  # code that no signal can interrupt
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.002)
            continue
        if not data:
            os.close(pipe)
            return begun
        heard = time.monotonic()
        *lines, buffer = (buffer + data).split(b"\n")
        for line in map(json.loads, lines):
            if "begins" in line:
                begun = line["begins"]
                continue
            begun = None
            outcome.inputs += 1
            outcome.seconds = max(outcome.seconds, line["seconds"])
            outcome.memory = max(outcome.memory, line["memory"])
            if line["verdict"] == "crash":
                outcome.crashes.append((line["number"], line["said"]))
            else:
                outcome.accepted += line["verdict"] == "accepted"
                outcome.refused += line["verdict"] == "refused"
                outcome.messages[re.sub(r"\d+", "N", line["said"])[:160]] += line["verdict"] == "refused"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readers", nargs="+", metavar="NAME", help=f"of {', '.join(READERS)} (default: all)")
    parser.add_argument("--inputs", type=int, help="inputs of each reader (default: what it is worth, 100 to 600)")
    parser.add_argument("--seed", type=int, default=1, help="of the mutations (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=10, help="time limit of an input (default: %(default)s)")
    parser.add_argument("--megabytes", type=int, default=1500, help="memory limit of an input (default: %(default)s)")
    parser.add_argument("--keep", metavar="DIR", help="write the files that crashed a reader here")
    parser.add_argument("--messages", action="store_true", help="also print what the refusals said")
    args = parser.parse_args()
    unknown = set(args.readers or ()) - READERS.keys()
    if unknown:
        parser.error(f"--readers {min(unknown)}: known are {', '.join(READERS)}")
    limits = args.seconds, args.megabytes << 20
    outcomes: dict[str, Outcome] = {}
    columns = ("inputs", "accepted", "refused", "crashes", "slowest, s", "most memory, MB")
    print(f"| reader | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}", flush=True)
    for name in args.readers or READERS:
        reader = warm(name)
        found = outcomes[name] = run(reader, args.inputs or reader.inputs, args.seed, limits)
        print(row(name, found), flush=True)
        for number, said in found.crashes if args.keep else ():
            target = os.path.join(args.keep, f"{name}-{number}")
            os.makedirs(target, exist_ok=True)
            reader.write(target, *make_input(reader, number, args.seed))
            with open(os.path.join(target, "SAID"), "w", encoding="utf-8", errors="replace") as f:
                f.write(said)
    total = Outcome(
        *(sum(getattr(found, key) for found in outcomes.values()) for key in ("inputs", "accepted", "refused")),
        crashes=[crash for found in outcomes.values() for crash in found.crashes],
        seconds=max(found.seconds for found in outcomes.values()),
        memory=max(found.memory for found in outcomes.values()),
    )
    print(row("**all**", total))
    for name, found in outcomes.items():
        kinds = Counter(said for _, said in found.crashes)
        for said, count in kinds.most_common():
            first = next(number for number, other in found.crashes if other == said)
            print(f"{name}, {count} times, first in input {first}: {said}")
        for said, count in found.messages.most_common() if args.messages else ():
            print(f"{name}, {count} times refused: {said}")
    sys.exit(bool(total.crashes))


def row(name: str, found: Outcome) -> str:
    """A line of the table."""
    counts = f"{found.inputs:,} | {found.accepted:,} | {found.refused:,} | {len(found.crashes):,}"
    return f"| {name} | {counts} | {found.seconds:.2f} | {found.memory / 1e6:,.0f} |"


if __name__ == "__main__":
    main()
