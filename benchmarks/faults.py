#!/usr/bin/env python
"""What a training survives: faults are injected into real trainings, which then go on; a table says what was lost.

    python benchmarks/faults.py
    python benchmarks/faults.py --rows kills writes --kills 3 --writes 2 --updates 40      a short form

Models and data are small, so that many faults take minutes. Rows:

kills        SIGKILL at random moments of one pre-training over two shards, with a data-loader worker
writes       SIGKILL in the midst of writing a checkpoint: at a random write, sync or rename
truncations  all checkpoints of the last update cut at random offsets
disk         a disk (tmpfs) that is full while a checkpoint is written, and is then given room
processes    2 and 4 processes (gloo), with both kinds of DDP, beside one process on the same global batches
lost         SIGKILL for one of 2 and of 4 processes
samples      1, 37 and 8,191 pairs through training, validation and generation at four batch settings

After a fault the same command is run again. Samples lost or repeated are counted over all updates, against the
uninterrupted training; the difference is the largest of any update's loss, in bits. Exit status 1 if a fault was not
survived.
"""

import argparse
import collections
import filecmp
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass

import fairseq_pmlm.tasks  # noqa: F401  (before fairseq, whose imports it keeps quiet)

# isort: split
import torch
from trial_runs import PRETRAIN, ROOT, SEQ2SEQ, finish, make_pairs, make_text, parameters, read_record, start

from fairseq_pmlm.fairseq_patches.distributed import free_port

MINUTE = 60
ROWS = ("kills", "writes", "truncations", "disk", "processes", "lost", "samples")


@dataclass
class Row:
    """A line of the table."""

    fault: str
    injected: int
    survived: int
    lost: int | None = None
    difference: float | None = None
    note: str = ""

    def __str__(self):
        lost = "" if self.lost is None else f"{self.lost:,}"
        difference = "" if self.difference is None else f"{self.difference:.1e}" if self.difference else "0"
        return f"| {self.fault} | {self.injected:,} | {self.survived:,} | {lost} | {difference} | {self.note} |"

    @property
    def good(self) -> bool:
        return self.survived == self.injected and not self.lost and (self.difference or 0) < 1e-5


class Training:
    """One pre-training that can be started again and again.

    Args:
        directory: for its checkpoints, output and record.
        data: data directories, separated by colons.
        options: further options.
    """

    def __init__(self, directory: str, data: str, *options):
        self.directory = directory
        os.makedirs(directory, exist_ok=True)
        self.log, self.record = os.path.join(directory, "log"), os.path.join(directory, "record")
        self.save_dir = os.path.join(directory, "checkpoints")
        self.arguments = [data, *PRETRAIN, "--save-dir", self.save_dir, *options]

    def start(self, rank: int = 0, **how):
        suffix = f".{rank}" if rank else ""
        return start("train", self.arguments, self.log + suffix, self.record + suffix, **how)

    def run(self, **how) -> int:
        return finish(self.start(**how))

    def start_many(self, count: int) -> list:
        """As *count* processes, each as torchrun would start it."""
        many = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port(-1)), "WORLD_SIZE": str(count)}
        return [self.start(rank, environment={**many, "RANK": str(rank)}) for rank in range(count)]

    def done(self, rank: int = 0):
        return read_record(f"{self.record}.{rank}" if rank else self.record)

    def output(self, rank: int = 0) -> str:
        with open(f"{self.log}.{rank}" if rank else self.log, encoding="utf-8") as file:
            return file.read()

    def logged(self) -> dict[tuple[str, str], dict[str, str]]:
        """What was logged last of each update, in training and validation, but for what is measured in seconds."""
        found = {}
        for tag, line in re.findall(r"\| INFO \| (train_inner|train|valid) \| (\{.*\})$", self.output(), re.MULTILINE):
            values = {
                name: x for name, x in json.loads(line).items() if not re.search("wall|wps|ups|time|per_second", name)
            }
            found[tag, values[f"{tag}_num_updates" if tag != "train_inner" else "num_updates"]] = values
        return found

    def compare(self, reference: "Training", processes: int = 1) -> tuple[int, float, bool]:
        """Samples lost or repeated, the largest difference of a loss, and whether parameters and logs are equal."""
        all_updates, theirs = [self.done(rank).updates for rank in range(processes)], reference.done().updates
        lost = 0
        for update in set(all_updates[0]) | set(theirs):
            mine = collections.Counter(x for updates in all_updates for x in updates.get(update, {}).get("ids", []))
            wanted = collections.Counter(theirs.get(update, {}).get("ids", []))
            lost += ((mine - wanted) + (wanted - mine)).total()
        both = set(all_updates[0]) & set(theirs)
        difference = max(abs(all_updates[0][update]["loss"] - theirs[update]["loss"]) for update in both)
        one, two = parameters(self.save_dir), parameters(reference.save_dir)
        equal = all(torch.equal(one[name], two[name]) for name in one)
        told = reference.logged()
        alike = processes > 1 or all(told.get(key) == values for key, values in self.logged().items())
        return lost, difference, equal and alike


class Faults:
    """The rows of the table, each by its name.

    Args:
        args: options of the command line.
        directory: for everything that is written.
    """

    def __init__(self, args, directory: str):
        self.args, self.directory = args, directory
        self.random = random.Random(args.seed)
        shards = [make_text(os.path.join(directory, f"shard{n}"), 300, 37, seed=n) for n in (1, 2)]
        self.data = ":".join(shards)
        self.seconds = 0.0
        self._reference: Training | None = None

    def training(self, name: str, *options) -> Training:
        updates = self.args.updates
        common = ["--max-tokens", 400, "--max-update", updates, "--total-num-update", updates, "--num-workers", 1]
        common += ["--save-interval-updates", 3, "--keep-interval-updates", 2, "--keep-last-epochs", 1]
        return Training(os.path.join(self.directory, name), self.data, *common, *options)

    @property
    def reference(self) -> Training:
        """The training that nothing happens to."""
        if self._reference is None:
            self._reference = self.training("reference")
            if self._reference.run():
                raise SystemExit(self._reference.output()[-3000:])
            times = [update["time"] for update in self._reference.done().updates.values()]
            self.seconds = max(times) - min(times)
        return self._reference

    def kills(self) -> Row:
        reference, training = self.reference, self.training("kills")
        moments: collections.Counter = collections.Counter()
        while moments.total() < self.args.kills:
            before, process = training.done().made, training.start()
            if self.random.random() < 0.9:  # else while it starts
                # so few that there is something left to train until the last
                wanted = before + self.random.randint(0, int(0.8 * self.args.updates / self.args.kills))
                while process.is_alive() and training.done().made < wanted:
                    time.sleep(0.005)
            process.join(self.random.uniform(0, 2 * self.seconds / self.args.updates))
            if not process.is_alive():
                break
            os.kill(process.pid, signal.SIGKILL)
            finish(process)
            moments[training.done().doing] += 1
        status = training.run()
        lost, difference, equal = training.compare(reference)
        where = ", ".join(f"{count} {doing}" for doing, count in moments.most_common())
        survived = moments.total() if status == 0 and equal else 0
        return Row("kills", self.args.kills, survived, lost, difference, f"{where}; {said(equal)}")

    def writes(self) -> Row:
        reference, training = self.reference, self.training("writes")
        survived, between = 0, reference.done().operations // self.args.writes
        for _ in range(self.args.writes):
            survived += training.run(kill_at=self.random.randint(between // 2, between)) == -signal.SIGKILL
        left = [name for name in os.listdir(training.save_dir) if ".tmp" in name]
        status = training.run()
        lost, difference, equal = training.compare(reference)
        left = [name for name in left if name in os.listdir(training.save_dir)]
        note = f"{said(equal)}; unfinished files left: {len(left)}"
        survived = survived if status == 0 and equal and not left else 0
        return Row("kills within a write", self.args.writes, survived, lost, difference, note)

    def truncations(self) -> Row:
        reference, survived, lost, difference = self.reference, 0, 0, 0.0
        for number in range(self.args.truncations):
            shutil.rmtree(os.path.join(self.directory, "truncated"), ignore_errors=True)
            training = self.training("truncated")
            shutil.copytree(reference.directory, training.directory, dirs_exist_ok=True)
            os.remove(training.log)
            last = os.path.join(training.save_dir, "checkpoint_last.pt")
            paths = [os.path.join(training.save_dir, name) for name in os.listdir(training.save_dir)]
            for path in [path for path in paths if filecmp.cmp(path, last, shallow=False)]:
                os.truncate(path, self.random.randrange(os.path.getsize(path)) if number else 0)
            status = training.run()
            named = re.search(rf"checkpoint {re.escape(last)} (is|cannot) .*: going on from ", training.output())
            found = training.compare(reference)
            survived += status == 0 and named is not None and found[2]
            lost, difference = lost + found[0], max(difference, found[1])
        note = "each named in one line; went on from the newest whole one"
        return Row("truncations", self.args.truncations, survived, lost, difference, note)

    def disk(self) -> Row:
        reference, survived = self.reference, 0
        size = os.path.getsize(os.path.join(reference.save_dir, "checkpoint_last.pt"))
        # in a mount namespace of its own; what is on the tmpfs is copied out of it in the end
        script = """
            mount -t tmpfs -o "size=$1" tmpfs "$2" || exit 9
            directory=$2; shift 2
            "$@" > "$directory.full" 2>&1; echo "status $?"
            mount -o remount,size=1g "$directory"
            "$@" > "$directory.again" 2>&1; echo "status $?"
            cp "$directory/checkpoint_last.pt" "$directory.pt"
        """
        for number in range(self.args.disks):
            training = self.training(f"disk{number}")
            os.makedirs(training.save_dir)
            room = round(size * self.random.uniform(1.2, 4.5))
            command = [sys.executable, "-m", "fairseq_cli.train", *map(str, training.arguments)]
            done = subprocess.run(
                ["unshare", "-Urm", "sh", "-c", script, "sh", str(room), training.save_dir, *command],
                env={**os.environ, "PYTHONPATH": ROOT}, capture_output=True, text=True,
            )  # fmt: skip
            if "status" not in done.stdout:
                return Row(
                    "full disks", 0, 0, note=f"not tried, as no tmpfs can be mounted: {done.stderr.strip()[:80]}"
                )
            with open(training.save_dir + ".full", encoding="utf-8") as file:
                output = file.read()
            # not always the last line: a data-loader worker may end after it, and say so
            told = [line for line in output.splitlines() if line.startswith("fairseq_pmlm: error: ")]
            clear = len(told) == 1 and "checkpoint " in told[0] and "No space left on device" in told[0]
            os.rename(training.save_dir + ".pt", os.path.join(training.save_dir, "checkpoint_last.pt"))
            one, two = parameters(training.save_dir), parameters(reference.save_dir)
            equal = all(torch.equal(one[name], two[name]) for name in one)
            if clear and equal and done.stdout.split() == ["status", "1", "status", "0"]:
                survived += 1
            else:
                print(f"{done.stdout}parameters equal: {equal}\n{output[-2000:]}", file=sys.stderr)
        note = "each said in one line, exit status 1; with room, went on to the same parameters"
        return Row("full disks", self.args.disks, survived, note=note)

    def processes(self) -> list[Row]:
        """4 batches an update, the last update of an epoch 3, each with its own number of masked tokens."""
        batches = ["--batch-size", 6, "--dropout", 0, "--attention-dropout", 0, "--num-workers", 0]
        batches += ["--max-update", 50, "--total-num-update", 50, "--save-interval", 99, "--validate-interval", 99]
        batches += ["--no-epoch-checkpoints"]
        one = Training(os.path.join(self.directory, "one"), self.data, *batches, "--update-freq", 4)
        if one.run():
            raise SystemExit(one.output()[-3000:])
        rows = []
        for count in self.args.processes:
            for ddp in ("pytorch_ddp", "legacy_ddp"):
                options = [*batches, "--update-freq", 4 // count, "--ddp-backend", ddp]
                many = Training(os.path.join(self.directory, f"{ddp}{count}"), self.data, *options)
                status = [finish(process) for process in many.start_many(count)]
                lost, difference, _ = many.compare(one, count)
                theirs, mine = one.done().updates, many.done().updates
                norm = max(abs(mine[n]["norm"] - theirs[n]["norm"]) / theirs[n]["norm"] for n in theirs)
                note = f"50 updates; gradient norms differ by {norm:.0e} of their size"
                rows.append(Row(f"{count} processes, {ddp}", 1, int(not any(status)), lost, difference, note))
        return rows

    def lost(self) -> Row:
        survived, waited = 0, []
        for count in self.args.processes:
            options = ["--max-tokens", 400, "--max-update", 10**6, "--total-num-update", 10**6, "--num-workers", 0]
            training = Training(os.path.join(self.directory, f"lost{count}"), self.data, *options)
            processes = training.start_many(count)
            while len(training.done().updates) < 20 and all(process.is_alive() for process in processes):
                time.sleep(0.1)
            victim = self.random.randrange(count)
            os.kill(processes[victim].pid, signal.SIGKILL)
            begun = time.monotonic()
            status = [finish(process, 2 * MINUTE) for process in processes]
            waited.append(time.monotonic() - begun)
            told = [training.output(rank).strip().splitlines()[-1] for rank in range(count) if rank != victim]
            clear = all(
                re.match(r"(\[rank\d\]: )?fairseq_pmlm: error: process \d of \d has lost", line) for line in told
            )
            expected = [-signal.SIGKILL if rank == victim else 1 for rank in range(count)]
            survived += clear and status == expected and waited[-1] < MINUTE
        note = f"the others stopped after {max(waited):.1f} s at most, each with one clear line"
        counts = " and of ".join(map(str, self.args.processes))
        return Row(f"one process of {counts} killed", len(waited), survived, note=note)

    def samples(self) -> Row:
        tried, good, lost = 0, 0, 0
        for count in self.args.samples:
            data = make_pairs(os.path.join(self.directory, f"pairs{count}"), count)
            for setting in ("1", "8", "128", "tokens"):
                batches = ["--max-tokens", 300] if setting == "tokens" else ["--batch-size", setting]
                run = os.path.join(self.directory, f"samples-{count}-{setting}")
                save = ["--save-dir", run, "--max-epoch", 1, "--total-num-update", 10**5, "--no-epoch-checkpoints"]
                paths = f"{run}.log", f"{run}.record"
                status = [finish(start("train", [data, *SEQ2SEQ, *batches, *save, "--num-workers", 0], *paths), 3600)]
                record = read_record(paths[1])
                generate = [data, "--user-dir", f"{ROOT}/fairseq_pmlm", "--task", "pmlm_seq2seq", "--cpu", *batches]
                generate += ["--path", f"{run}/checkpoint_last.pt", "--beam", 1, "--max-len-b", 2, "--num-workers", 0]
                status.append(finish(start("generate", generate, f"{run}.generate", paths[1]), 3600))
                with open(f"{run}.generate", encoding="utf-8") as file:
                    generated = [int(number) for number in re.findall(r"^H-(\d+)\t", file.read(), re.MULTILINE)]
                trained = [x for update in record.updates.values() for x in update["ids"]]
                wrong = 0
                for ids in (trained, record.valid, generated):
                    difference = collections.Counter(ids)
                    difference.subtract(range(count))
                    wrong += sum(map(abs, difference.values()))
                tried, good, lost = tried + 3, good + (3 if not any(status) and not wrong else 0), lost + wrong
        sizes = ", ".join(f"{count:,}" for count in self.args.samples)
        note = f"{sizes} samples; training, validation, generation; --batch-size 1, 8, 128, --max-tokens"
        return Row("every sample once", tried, good, lost, note=note)


def said(equal: bool) -> str:
    return "parameters equal to the bit, logs alike" if equal else "PARAMETERS OR LOGS DIFFER"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--rows", nargs="+", choices=ROWS, default=ROWS, metavar="ROW", help="which rows (default: all)")
    add("--kills", type=int, default=30, help="kills at random moments (default: %(default)s)")
    add("--writes", type=int, default=10, help="kills within a write (default: %(default)s)")
    add("--truncations", type=int, default=20, help="truncations (default: %(default)s)")
    add("--disks", type=int, default=2, help="full disks (default: %(default)s)")
    add("--processes", type=int, nargs="+", default=[2, 4], help="how many processes (default: 2 4)")
    add("--samples", type=int, nargs="+", default=[1, 37, 8191], help="sizes of data sets (default: 1 37 8191)")
    add("--updates", type=int, default=120, help="updates of the training that is killed (default: %(default)s)")
    add("--seed", type=int, default=1, help="of the random moments and places")
    add("--directory", help="where to work, and leave everything (default: a temporary directory)")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)  # no thread is to be there when a process is forked
    with tempfile.TemporaryDirectory() as temporary:
        faults = Faults(args, args.directory or temporary)
        print("| fault | injected | survived | samples lost or repeated | difference of the loss | |")
        print("|---|---|---|---|---|---|", flush=True)
        good = True
        for name in args.rows:
            rows = getattr(faults, name)()
            for row in rows if isinstance(rows, list) else [rows]:
                print(row, flush=True)
                good &= row.good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
