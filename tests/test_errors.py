import subprocess
import sys

import pytest

from fairseq_pmlm.utils.errors import LONGEST, PMLMError, find_user_error, message


def test_the_cause_is_found_behind_what_fairseq_raises():
    error = RuntimeError("Cannot load model parameters")
    error.__context__ = ValueError("between")
    error.__context__.__context__ = PMLMError("--x 1 is wrong")
    assert message(error) == "--x 1 is wrong"
    assert isinstance(find_user_error(error), PMLMError)
    assert message(ValueError("other")) is None
    assert message(None) is None


@pytest.mark.parametrize("kind", [PMLMError, RuntimeError])
@pytest.mark.parametrize("raised", ["utils.errors.PMLMError", "tasks.base.MissingDataError"])
def test_the_line_is_found_in_the_traceback_of_another_process(kind, raised):
    text = f"Caught in worker 0.\nTraceback ...\nfairseq_pmlm.{raised}: line 3 is wrong\n\nmore"
    assert message(kind(text)) == "line 3 is wrong"


def test_a_message_is_one_line_whatever_it_quotes():
    assert str(PMLMError("a\r\n\nb\u2028c\x85d\n")) == "a b c d"
    assert str(PMLMError("Traceback (most recent call last):\nd")) == "Traceback (most recent call last): d"
    assert len(str(PMLMError("x" * 10**6))) <= LONGEST


def test_other_errors_keep_their_traceback():
    code = "import fairseq_pmlm.utils.errors as e; e.install_excepthook(); e.install_excepthook(); raise {}"
    done = subprocess.run([sys.executable, "-c", code.format("ValueError('x')")], capture_output=True, text=True)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    done = subprocess.run([sys.executable, "-c", code.format("e.PMLMError('y')")], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines() == ["fairseq_pmlm: error: y"]
