"""``pmlm prepare text``, from a checkout that was not installed."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from fairseq_pmlm.cli.main import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(["prepare", "text", *sys.argv[1:]]))
