# Sourced by demo.sh, the recipes and the experiments: steps that are skipped when they are done, commands that are echoed as they run.
#
# Set before: OUT (directory), NAME (of the script, for messages), history (what led here: a step runs again when its
# own command or anything before it has changed).
mkdir -p "$OUT/.steps" "$OUT/logs"
SECONDS=0

# A command as it can be typed again.
echo_command() {
    local word line="+"
    for word in "$@"; do
        case $word in
            *[!A-Za-z0-9_./:=,+\>-]* | "") line+=" '$word'" ;;
            *) line+=" $word" ;;
        esac
    done
    echo "$line"
}

# machine: sets MACHINE to fairseq's options for one process, on a GPU where there is one.
machine() {
    MACHINE=(--cpu)
    [ "$(python -c "import torch; print(torch.cuda.device_count())")" -eq 0 ] || MACHINE=(--distributed-world-size 1)
}

# step NAME "what it is" OUTPUT COMMAND...: run COMMAND unless it has completed before and OUTPUT still exists.
step() {
    local name=$1 title=$2 output=$3 stamp="$OUT/.steps/$1" key
    shift 3
    history+=" $*"
    key=$(printf '%s' "$history" | sha256sum | cut -c1-16)
    if [ "$(cat "$stamp" 2>/dev/null)" = "$key" ] && [ -e "$output" ]; then
        echo "== $title: already done"
        return
    fi
    # A half-done training of this very command goes on; anything else starts afresh. Only what this step has made is
    # moved or removed: what was complete is kept under another name, what somebody else has put there stays.
    if [ -e "$output" ] && [ "$(cat "$stamp.begun" 2>/dev/null)" != "$key" ]; then
        if [ -e "$stamp" ]; then
            echo "== $title: made with other options or data before; that is kept as $output.previous"
            rm -rf "${output:?}.previous"
            mv "$output" "$output.previous"
        elif [ -e "$stamp.begun" ]; then
            rm -rf "${output:?}"
        else
            echo "$NAME: $output is there already, and was not made by this script; choose another output directory" >&2
            exit 2
        fi
        rm -f "$stamp"
    fi
    echo "$key" >"$stamp.begun"
    echo
    echo "== $title ($((SECONDS / 60)) min $((SECONDS % 60)) s since the start)"
    case $(type -t "$1") in file) echo_command "$@" ;; esac
    "$@"
    echo "$key" >"$stamp"
    rm -f "$stamp.begun"
}

# fairseq_train LOG OPTION...: train; show how it goes, and keep all that is logged in a file.
fairseq_train() {
    local log=$1
    shift
    set -- fairseq-train "$@" --log-format json --log-file "$log"
    echo_command "$@"
    "$@" 2>&1 |
        python scripts/demo/training_progress.py || { echo "$NAME: training failed; see $log" >&2; exit 1; }
}

# generate OUTPUT OPTION...: fairseq-generate into a file that is whole or not there.
generate() {
    local output=$1
    shift
    set -- fairseq-generate "$@" --log-format simple --log-interval 10
    echo_command "$@" ">$output"
    # on stderr, fairseq says how far it is, and more than anybody wants to read
    "$@" 2>&1 >"$output.tmp" | { grep --line-buffered -Ev "^(DEBUG|INFO:fairseq(_cli|_pmlm|\.(tasks|data))|INFO:hydra)" || true; } || exit 1
    mv "$output.tmp" "$output"
}
