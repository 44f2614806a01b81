"""Jobs that depend on each other, each run once: stopped at any moment, the next invocation goes on.

A job is a list of commands and what their outputs say. It is done when ``OUT/runs/NAME/result.json`` is there, which is
written last and whole; ``OUT/results.jsonl`` has all of them. Beside it, ``commands`` lists the commands that have
ended well. One that was stopped half-way starts again: training goes on from its last checkpoint, everything else
writes its output at its end.
"""

import contextlib
import ctypes
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fairseq_pmlm.utils.errors import PMLMError
from fairseq_pmlm.utils.io import read_json, write_text

PATIENCE = 30  # seconds between asking a process to end and ending it


@dataclass
class Job:
    """What is to be done once.

    Attributes:
        name: unique; the directory of the job below ``OUT/runs``.
        commands: run one after the other, each a list of words; with ``>`` and a file first, standard output goes
            there.
        result: called when they are done; what it returns, an object for JSON, is the result.
        needs: names of jobs that have to be done before.
        facts: stand in the result, beside what *result* says.
        remove: files and directories to remove afterwards.
    """

    name: str
    commands: Callable[[], Sequence[Sequence[str]]]
    result: Callable[[], dict]
    needs: Sequence[str] = ()
    facts: dict = field(default_factory=dict)
    remove: Sequence[Path] = ()


@dataclass
class Running:
    """A job under way: the commands that are left; the one that runs, and its process."""

    job: Job
    commands: list[list[str]]
    words: list[str] = field(default_factory=list)
    process: subprocess.Popen | None = None


class Runner:
    """Runs jobs, the first ones first, several at a time.

    Args:
        out: directory of everything.
        jobs: what is to be done; earlier ones are worth more.
        at_once: processes at a time.
        seconds: when to stop, counted from now.
        finished: called with all results after each job.
    """

    def __init__(
        self,
        out: Path,
        jobs: Sequence[Job],
        at_once: int,
        seconds: float,
        finished: Callable[[list[dict]], None] = lambda results: None,
    ):
        self.out, self.jobs, self.at_once, self.finished = out, list(jobs), at_once, finished
        self.deadline = time.monotonic() + seconds
        self.running: list[Running] = []
        names = [job.name for job in self.jobs]
        assert len(set(names)) == len(names), names
        for directory in ("runs", "logs"):
            (out / directory).mkdir(parents=True, exist_ok=True)

    def path(self, job: Job) -> Path:
        return self.out / "runs" / job.name / "result.json"

    def ended(self, job: Job) -> Path:
        return self.out / "runs" / job.name / "commands"

    def done(self) -> dict[str, dict]:
        """Name -> result of the jobs that are done.

        Raises:
            PMLMError: one of them was another job of the same name; a file is no result.
        """
        found = {}
        for job in self.jobs:
            if self.path(job).is_file():
                result = read_json(str(self.path(job)))
                if not isinstance(result.get("facts"), dict):
                    raise PMLMError(f"{self.path(job)} is no result of a job; remove it, and run again")
                if result["facts"] != json.loads(json.dumps(job.facts)):
                    raise PMLMError(
                        f"{self.path(job)} was made with other options ({differing(result['facts'], job.facts)}); give "
                        "these, or another --out"
                    )
                found[job.name] = result
        return found

    def run(self) -> bool:
        """Run what is left, until the time is over, or SIGTERM or Ctrl-C; returns whether everything is done.

        Raises:
            PMLMError: a command failed; the others are stopped. Somebody else is at it.
        """
        with open(self.out / "lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise PMLMError(f"{self.out}: another invocation is at work there; wait for it, or end it") from None
            try:
                return self.run_jobs()
            except OSError as error:  # a full disk
                where, what = error.filename or self.out, error.strerror or error
                raise PMLMError(f"{where}: {what}; run again to go on") from error

    def run_jobs(self) -> bool:
        """What :meth:`run` does once nobody else is at it."""
        done = self.done()
        self.write(done)
        failed = None
        interrupted = []
        heard = [n for n in (signal.SIGTERM, signal.SIGINT) if signal.getsignal(n) is not signal.SIG_IGN]
        previous = {number: signal.signal(number, lambda *_: interrupted.append(True)) for number in heard}
        try:
            while failed is None and not interrupted and time.monotonic() < self.deadline:
                self.start(done)
                if not self.running:
                    break
                time.sleep(0.2)
                for running in list(self.running):
                    if running.process is not None and running.process.poll() is None:
                        continue
                    if running.process is not None and running.process.returncode:
                        failed = running
                        break
                    if running.process is not None:
                        if running.words[0] == ">":
                            os.replace(running.words[1] + ".tmp", running.words[1])
                        with open(self.ended(running.job), "a", encoding="utf-8") as f:
                            f.write(json.dumps(running.words) + "\n")
                    if running.commands:
                        self.command(running)
                        continue
                    self.running.remove(running)
                    done[running.job.name] = self.finish(running.job)
                    self.write(done)
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            self.stop()
        if failed is not None:
            raise PMLMError(f"{failed.job.name} failed; see {self.log(failed.job)}")
        return len(done) == len(self.jobs)

    def start(self, done: dict[str, dict]) -> None:
        """Start the first jobs that can be started, as many as there is room for."""
        busy = {running.job.name for running in self.running}
        for job in self.jobs:
            if len(self.running) >= self.at_once:
                return
            if job.name in done or job.name in busy or not set(job.needs) <= done.keys():
                continue
            self.path(job).parent.mkdir(parents=True, exist_ok=True)
            running = Running(job, [list(map(str, command)) for command in job.commands()])
            ended = self.ended(job).read_text("utf-8").splitlines() if self.ended(job).exists() else []
            while running.commands and ended and ended.pop(0) == json.dumps(running.commands[0]):
                running.commands.pop(0)
            print(f"{time.strftime('%H:%M:%S')} {job.name} ({len(done)} of {len(self.jobs)} done)", flush=True)
            self.running.append(running)
            if running.commands:
                self.command(running)

    def command(self, running: Running) -> None:
        """Start the next command of a job."""
        words = running.commands.pop(0)
        with contextlib.ExitStack() as stack:
            log = stack.enter_context(open(self.log(running.job), "a", encoding="utf-8"))
            log.write("+ " + " ".join(words) + "\n")
            log.flush()
            output = log
            if words[0] == ">":
                output = stack.enter_context(open(words[1] + ".tmp", "w", encoding="utf-8"))
            # a group of its own, so that it can be stopped with all that it has started
            running.process = subprocess.Popen(
                words[2:] if words[0] == ">" else words,
                stdout=output,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        running.words = words

    def log(self, job: Job) -> Path:
        return self.out / "logs" / f"{job.name}.log"

    def finish(self, job: Job) -> dict:
        result = {"name": job.name, "facts": job.facts, **job.result()}
        write_text(self.path(job), json.dumps(result, indent=1) + "\n")
        self.ended(job).unlink(missing_ok=True)
        for path in job.remove:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        return result

    def write(self, done: dict[str, dict]) -> None:
        """Write results.jsonl anew, and what follows from it."""
        results = [done[job.name] for job in self.jobs if job.name in done]
        write_text(self.out / "results.jsonl", "".join(json.dumps(result) + "\n" for result in results))
        self.finished(results)

    def stop(self) -> None:
        """End whatever runs."""
        processes = [r.process for r in self.running if r.process is not None and r.process.poll() is None]
        for process in processes:
            os.killpg(process.pid, signal.SIGTERM)
        for process in processes:
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def die_with_parent() -> None:
    """Let this process be killed when the one that started it ends, however that ends (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def differing(ours: dict, theirs: dict) -> str:
    """The options that differ, for a message."""
    keys = [key for key in dict.fromkeys([*ours, *theirs]) if ours.get(key) != theirs.get(key)]
    return ", ".join(f"{key}: {ours.get(key)} and now {theirs.get(key)}" for key in keys)
