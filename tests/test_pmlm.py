"""The command: its table, its help, and how it ends; what the subcommands do is tested by their own files."""

import argparse
import json
import os
import pkgutil
import re
import signal
import subprocess
import sys
from collections import defaultdict

import pytest
from commands import ROOT, pmlm

import fairseq_pmlm.cli
from fairseq_pmlm.cli import main as command
from fairseq_pmlm.utils.errors import PMLMError

PMLM = [sys.executable, "-m", "fairseq_pmlm"]
PARTS = {"main", "arguments", "predict_squad", "score_squad"}  # modules that are no subcommands


def parsers():
    """The parser of each subcommand."""
    found = {}

    class Stop(Exception):
        pass

    def parse_args(self, argv=None):
        found[argv[0]] = self
        raise Stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
        for name in command.COMMANDS:
            with pytest.raises(Stop):
                command.run([*name.split(), name])
    return found


def test_every_module_is_a_command():
    modules = {module.name for module in pkgutil.iter_modules(fairseq_pmlm.cli.__path__)}
    assert {module for module, _ in command.COMMANDS.values()} == modules - PARTS


@pytest.mark.parametrize("name", command.COMMANDS)
def test_help_of_a_command(name, capsys):
    with pytest.raises(SystemExit) as end:
        command.main([*name.split(), "--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: pmlm {name} ")
    assert f"    pmlm {name} " in shown  # an example
    assert not re.search(r"scripts/|\b(?!train|generate)\w+\.py\b", shown)  # names nothing that pip leaves out


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["prepare", "--help"], []])
def test_help_fits_a_screen(arguments, capsys):
    status = command.main(arguments)
    shown, errors = capsys.readouterr()
    assert (status, bool(shown), bool(errors)) == ((0, True, False) if arguments else (2, False, True))
    lines = (shown or errors).splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    wanted = [name for name in command.COMMANDS if name.startswith("prepare ") or arguments[:1] != ["prepare"]]
    assert [line[2:16].strip() for line in lines if line.startswith("  ")] == wanted


def test_an_option_means_the_same_in_all_commands():
    found = defaultdict(set)
    for parser in parsers().values():
        for action in parser._actions:
            for option in action.option_strings:
                found[option].add((type(action).__name__, action.metavar, action.type))
    differ = {option for option, kinds in found.items() if len(kinds) > 1}
    # validation text is files or directories, a validation set of examples is files
    assert differ == {"--valid"}
    assert not found.keys() & {"--output", "--input", "--checkpoint", "--batch-size", "--predictions", "--device"}


def test_help_imports_nothing_heavy():
    code = """
import sys, types
package = sys.modules["fairseq_pmlm"] = types.ModuleType("fairseq_pmlm")  # whatever importing the package does
package.__path__ = ["fairseq_pmlm"]
before = set(sys.modules)
from fairseq_pmlm.cli.main import main
main(["--help"])
found = {name.partition(".")[0] for name in set(sys.modules) - before}
print(sorted(found - set(sys.stdlib_module_names)), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr == "['fairseq_pmlm']\n"
    assert done.stdout.startswith("usage: pmlm COMMAND")


def test_python_m_and_the_version():
    from fairseq_pmlm._version import __version__

    assert pmlm("--version").stdout == f"pmlm {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["scoer"], "unknown command 'scoer'; did you mean score?"),
        (["prepare", "txt"], "unknown command 'prepare txt'; did you mean prepare text?"),
        (["loss_by_step", "x"], "unknown command 'loss_by_step'; did you mean loss-by-step?"),
        (["xyzzy"], "unknown command 'xyzzy'; see pmlm --help"),
        (["a\nb"], "unknown command 'a\\nb'; see pmlm --help"),
    ],
)
def test_a_command_that_is_not_there(arguments, message, capsys):
    assert command.main(arguments) == 2
    assert capsys.readouterr() == ("", f"pmlm: error: {message}\n")


def test_a_package_that_is_not_there(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for module in ("fairseq_pmlm.cli.report", "fairseq_pmlm.reporting.page"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.raises(PMLMError, match=r"^pmlm report needs matplotlib, .* pip install .fairseq-pmlm\[plot\].$"):
        command.main(["report", str(tmp_path)])


# How it ends


def with_closed_pipe(arguments, **options):
    """Run ``pmlm`` with standard output in a pipe that is read no longer; returns status and stderr."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [*PMLM, *map(str, arguments)], cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, text=True, **options
        )
    finally:
        os.close(writing)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    "name", [*(pytest.param(name, marks=pytest.mark.slow) for name in command.COMMANDS), "", "prepare"]
)
def test_a_closed_pipe_ends_the_help_quietly(name):
    assert with_closed_pipe([*name.split(), "--help"]) == (128 + signal.SIGPIPE, "")


@pytest.mark.parametrize("environment", [{"PYTHONUNBUFFERED": ""}, {"PYTHONUNBUFFERED": "1"}])
def test_a_closed_pipe_ends_a_command_quietly(environment, tmp_path):
    (tmp_path / "text").write_text("a line\n")
    score = ["score", "--metric", "rouge", "--hyp", tmp_path / "text", "--ref", tmp_path / "text"]
    assert with_closed_pipe(score, env=os.environ | environment) == (128 + signal.SIGPIPE, "")


@pytest.mark.slow
def test_head_in_a_shell(tmp_path):
    """More than a pipe holds, by the pipeline that a user types; every line before the pipe is closed is whole."""
    logs = [tmp_path / f"{i}.json" for i in range(2)]
    for log in logs:
        log.write_text(json.dumps({"scores": {f"metric{i}": {"score": i} for i in range(5000)}}))
    line = f"set -o pipefail; {' '.join(PMLM)} seeds {logs[0]} {logs[1]} | head -n 1"
    done = subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (141, "")
    assert done.stdout == "| best of each training | mean | standard deviation | seed 1 | seed 2 |\n"


def test_an_error_is_said_with_a_closed_pipe_too(tmp_path):
    status, errors = with_closed_pipe(["hypotheses", tmp_path / "none", "--out", tmp_path / "x"])
    assert status == 1
    assert errors == f"fairseq_pmlm: error: cannot read {tmp_path}/none: No such file or directory\n"


def test_a_full_disk_is_an_error(tmp_path):
    with open("/dev/full", "w") as full:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        done = subprocess.run(
            [*PMLM, "--help"], cwd=ROOT, env=environment, stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 1
    assert done.stderr == "fairseq_pmlm: error: standard output: cannot be written: No space left on device\n"


def shell(line, **environment):
    """Run a line of bash in which ``pmlm`` is the command; returns status and stderr."""
    line = f'pmlm() {{ {" ".join(PMLM)} "$@"; }}; {line}'
    done = subprocess.run(["bash", "-c", line], cwd=ROOT, env=os.environ | environment, capture_output=True, text=True)
    return done.returncode, done.stderr


def test_closed_standard_streams(tmp_path):
    """Results are not lost without a word, and files that are written are not taken for the stream that is closed."""
    (tmp_path / "log.json").write_text('{"scores": {"é": {"score": 1}}}')
    closed = "fairseq_pmlm: error: standard output is closed; if it is not wanted, send it to /dev/null\n"
    assert shell(f"pmlm seeds {tmp_path}/log.json >&-") == (1, closed)
    assert shell(f"pmlm seeds {tmp_path}/log.json --out {tmp_path}/out 2>&- <&-") == (0, "")
    assert "| é | 1.00 |" in (tmp_path / "out").read_text()
    assert shell("pmlm seeds /none 2>&-") == (1, "")


@pytest.mark.parametrize("buffered", ["", "1"])
def test_a_full_disk_for_what_is_printed_alone(tmp_path, buffered):
    """The file that --save-json names is not what cannot be written."""
    (tmp_path / "text").write_text("a line\n")
    line = f"pmlm score --metric stats --hyp {tmp_path}/text --ref {tmp_path}/text >/dev/full"
    status, errors = shell(line, PYTHONUNBUFFERED=buffered)
    assert status == 1
    assert errors == "fairseq_pmlm: error: standard output: cannot be written: No space left on device\n"


def test_an_encoding_that_lacks_a_character(tmp_path):
    (tmp_path / "log.json").write_text('{"scores": {"é": {"score": 1}}}')
    status, errors = shell(f"pmlm seeds {tmp_path}/log.json", PYTHONIOENCODING="ascii")
    assert status == 1
    assert errors == (
        "fairseq_pmlm: error: standard output: its encoding, ascii, has no '\\xe9'; set PYTHONIOENCODING=utf-8\n"
    )


def test_a_file_that_the_system_refuses_is_named(monkeypatch):
    def run(argv):
        raise PermissionError(13, "Permission denied", "a/b")

    monkeypatch.setattr(command, "run", run)
    with pytest.raises(PMLMError, match=r"^a/b: Permission denied$"):
        command.main([])


def test_another_pipe_that_breaks_is_no_quiet_end(monkeypatch):
    def run(argv):
        raise BrokenPipeError

    monkeypatch.setattr(command, "run", run)
    with pytest.raises(BrokenPipeError):
        command.main([])


def test_ctrl_c_ends_in_one_line(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    process = subprocess.Popen(
        [*PMLM, "hypotheses", str(tmp_path / "fifo"), "--out", str(tmp_path / "out")],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with open(tmp_path / "fifo", "w") as fifo:  # opens when the command does
        fifo.write("S-0\tx\n")
        fifo.flush()
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60) == ("", "pmlm: interrupted\n")
    assert process.returncode == 130
    assert os.listdir(tmp_path) == ["fifo"]


@pytest.mark.parametrize("door", ["score.py", "prepare_pretraining.py", "prepare_seq2seq.py"])
def test_doors_of_a_checkout(door, tmp_path):
    """Run elsewhere, with no installed package in sight."""
    name = {"score.py": "score", "prepare_pretraining.py": "prepare text", "prepare_seq2seq.py": "prepare pairs"}[door]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / door], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"usage: pmlm {name} ")
