# Sourced by the scripts that a person runs first: makes .venv with what they need, once, and activates it.
#
#   source scripts/setup.sh [EXTRA ...]     extras of pyproject.toml beside "fairseq", e.g. test, demo
#
# A stamp in .venv remembers what was installed for which pyproject.toml and setup.py; nothing happens again while they
# are the same.
pmlm_setup() {
    local python=${PYTHON:-python3} extras=fairseq extra digest stamp
    for extra in "$@"; do extras+=",$extra"; done
    if ! "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))'; then
        echo "setup: $("$python" --version) will not do; Python 3.11 or 3.12 is needed (PYTHON=/path/to/python3.11)" >&2
        return 1
    fi
    [ -x .venv/bin/python ] || "$python" -m venv .venv
    # shellcheck disable=SC1091
    source .venv/bin/activate
    digest=$(cat pyproject.toml setup.py | python -c 'import hashlib, sys
print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest()[:16])')
    stamp=".venv/installed-$extras-$digest"
    [ -e "$stamp" ] && return 0
    echo "setup: installing fairseq_pmlm[$extras] into .venv (a few minutes, once)"
    # torch first and pinned: left to itself, pip takes the newest CUDA build, which is several GB.
    python -m pip install --quiet --disable-pip-version-check "torch==${TORCH_VERSION:-2.13.0}" || return 1
    python -m pip install --quiet --disable-pip-version-check --editable ".[$extras]" || return 1
    # fairseq's speech code wants torchaudio, which pip takes for another torch: it cannot be imported then, and
    # transformers would try.
    python -c "import torchaudio" 2>/dev/null || python -m pip uninstall --quiet --yes torchaudio || return 1
    touch "$stamp"
}
pmlm_setup "$@"
