# Sourced by the recipes, after their settings: from a data set's public files to scores.
#
#   bash scripts/recipes/NAME.sh DATA CHECKPOINT OUT [options]    fine-tune CHECKPOINT on DATA, generate, score
#   bash scripts/recipes/NAME.sh --smoke [OUT]                    the whole path in a minute, on examples made on the spot
#
# CHECKPOINT is a pre-trained model; dict.txt and the tokenizer file are those of --vocab-from (default: its directory).
#
#   --vocab-from DIR             directory with the dict.txt and tokenizer file that CHECKPOINT was trained with
#   --devices N                  GPUs to train on (default: all that there are; without any, the CPU)
#   --sentences-per-device N     sentences that fit one device at a time; the rest of an update is accumulated
#   --precision fp32|bf16|fp16   default: bf16 on GPUs, fp32 on the CPU
#   --max-positions N            rows to which the position table grows (default: what the recipe needs, above 512)
#   --epochs N, --lr F, --seed N instead of the recipe's
#
# Every command is echoed as it runs. A second run skips what is done; an interrupted training goes on from its last
# checkpoint; with other options or data, what was made before is kept as *.previous, once. OUT receives data/, model/,
# generate.txt, hyp.txt, scores.txt and scores.json.
NAME=$(basename "$0" .sh)
HERE=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

fail() { echo "$NAME: $1" >&2; exit 2; }
usage() {
    sed -n '2,/^[^#]/p' "scripts/recipes/$NAME.sh" | sed '/^[^#]/d; s/^# \{0,1\}//'
    sed -n '2,/^NAME=/p' scripts/recipes/recipe.sh | sed "\$d; s/^# \{0,1\}//; s/NAME/$NAME/"
}
from_here() { case $1 in /*) echo "$1" ;; *) echo "$HERE/$1" ;; esac; }
need_number() { case $2 in "" | 0* | *[!0-9]*) fail "$1 $2: expected a whole number of at least 1" ;; esac; }
need_real() { [[ $2 =~ ^[0-9]*\.?[0-9]+(e-?[0-9]+)?$ ]] || fail "$1 $2: expected a number such as 7e-5"; }

unset TABLE
SMOKE="" VOCAB="" DEVICES="" PRECISION="" SEED=1 PLACES=() GIVEN=()
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage; exit 0 ;;
        --smoke) SMOKE=yes; shift; continue ;;
        --vocab-from | --devices | --sentences-per-device | --precision | --max-positions | --epochs | --lr | --seed)
            [ $# -ge 2 ] || fail "$1 needs a value"
            GIVEN+=("$1") ;;&
        --devices | --sentences-per-device | --max-positions | --epochs | --seed) need_number "$1" "$2" ;;&
        --lr) need_real "$1" "$2" ;;&
        --precision) case $2 in fp32 | bf16 | fp16) ;; *) fail "--precision $2: expected fp32, bf16 or fp16" ;; esac ;;&
        --vocab-from) VOCAB=$(from_here "$2") ;;
        --devices) DEVICES=$2 ;;
        --sentences-per-device) SENTENCES=$2 ;;
        --precision) PRECISION=$2 ;;
        --max-positions) TABLE=$2 ;;
        --epochs) EPOCHS=$2 ;;
        --lr) LR=$2 ;;
        --seed) SEED=$2 ;;
        -*) fail "unknown option $1 (see --help)" ;;
        *) PLACES+=("$(from_here "$1")"); shift; continue ;;
    esac
    shift 2
done
if [ -n "$SMOKE" ]; then
    [ ${#PLACES[@]} -le 1 ] && [ ${#GIVEN[@]} -eq 0 ] || fail "--smoke takes an output directory and nothing else"
    OUT=${PLACES[0]-$PWD/smoke-output/$NAME} DATA="" CHECKPOINT=""
    EPOCHS=2 BATCH=8 SENTENCES=4 PRECISION=fp32 CPU=yes
else
    [ ${#PLACES[@]} -eq 3 ] || fail "expected DATA CHECKPOINT OUT, found ${#PLACES[@]} of them (see --help)"
    DATA=${PLACES[0]} CHECKPOINT=${PLACES[1]} OUT=${PLACES[2]} CPU=""
    [ -d "$DATA" ] || fail "there is no directory $DATA"
    [ -f "$CHECKPOINT" ] || fail "there is no checkpoint $CHECKPOINT"
    VOCAB=${VOCAB:-$(dirname "$CHECKPOINT")}
    for place in "$DATA" "$CHECKPOINT" "$VOCAB"; do
        case $(realpath -m "$place")/ in "$(realpath -m "$OUT")"/*) fail "$place lies in the output directory $OUT; choose another" ;; esac
    done
    [ -f "$VOCAB/dict.txt" ] || fail "there is no $VOCAB/dict.txt; give --vocab-from DIR, the data directory of the pre-training"
fi

# find_file BASE: a file of DATA, plain or .gz; nothing if there is none.
find_file() {
    local path
    for path in "$DATA/$1" "$DATA/$1.gz"; do [ ! -f "$path" ] || { echo "$path"; return; }; done
}
# find_split FILE,FILE...: paths of all of them, a line each; status 1 if one is missing.
find_split() {
    local base path
    for base in ${1//,/ }; do
        path=$(find_file "$base")
        [ -n "$path" ] || return 1
        echo "$path"
    done
}
# find_data: the first of the recipe's FORMATS, "TRAIN VALID TEST [OPTION...]", whose files are all there.
find_data() {
    local format words i
    for format in "${FORMATS[@]}"; do
        read -ra words <<<"$format"
        for i in 0 1 2; do
            mapfile -t "paths$i" < <(find_split "${words[i]}")
            declare -n found="paths$i"
            [ ${#found[@]} -eq $(($(tr -cd , <<<"${words[i]}" | wc -c) + 1)) ] || continue 2
        done
        PREPARE=(--train "${paths0[@]}" --valid "${paths1[@]}" --test "${paths2[@]}" "${words[@]:3}")
        return
    done
    fail "$DATA holds none of the forms that this recipe knows (train, valid, test): $(printf '%s; ' "${FORMATS[@]}")"
}
# divide_batch: PER_DEVICE sentences on each device, times ACCUMULATE, make BATCH sentences an update.
divide_batch() {
    [ $((BATCH % DEVICES)) -eq 0 ] ||
        fail "$BATCH sentences an update cannot be shared by $DEVICES devices; give --devices with a divisor of $BATCH"
    for ((ACCUMULATE = 1; ; ACCUMULATE++)); do
        PER_DEVICE=$((BATCH / DEVICES / ACCUMULATE))
        if [ $((PER_DEVICE * DEVICES * ACCUMULATE)) -eq "$BATCH" ] && [ "$PER_DEVICE" -le "$SENTENCES" ]; then return; fi
    done
}

[ -n "$SMOKE" ] || find_data
# shellcheck disable=SC2086
source scripts/setup.sh ${EXTRAS-}
history=""
[ -n "$SMOKE" ] || history=$(find "$DATA" "$CHECKPOINT" "$VOCAB/dict.txt" -type f -exec sha256sum {} + | sort)
source scripts/steps.sh

GPUS=$(python -c "import torch; print(torch.cuda.device_count())")
if [ "$GPUS" -eq 0 ] || [ -n "$CPU" ]; then
    [ "${DEVICES:-1}" -eq 1 ] || fail "--devices $DEVICES: there are $GPUS GPUs"
    DEVICES=1 MACHINE=(--cpu) PRECISION=${PRECISION:-fp32}
else
    [ "${DEVICES:-$GPUS}" -le "$GPUS" ] || fail "--devices $DEVICES: there are $GPUS GPUs"
    DEVICES=${DEVICES:-$GPUS} MACHINE=() PRECISION=${PRECISION:-bf16}
fi
if [ "$PRECISION" != fp32 ]; then
    [ ${#MACHINE[@]} -eq 0 ] || fail "--precision $PRECISION needs a GPU"
    MACHINE+=("--$PRECISION")
fi

ADAM=(--optimizer adam --adam-betas "(0.9,0.999)" --adam-eps 1e-8 --clip-norm 1.0 --lr-scheduler polynomial_decay)
if [ -n "$SMOKE" ]; then
    step examples "Examples, made on the spot" "$OUT/examples" \
        python scripts/recipes/smoke_examples.py "$NAME" --destdir "$OUT/examples"
    DATA=$OUT/examples VOCAB=$OUT/text CHECKPOINT=$OUT/pretrained/checkpoint_last.pt
    find_data
    step text "Vocabulary, and the pre-training text" "$VOCAB" \
        pmlm prepare text --text "$DATA/text.txt" --vocab-size 60 --character-coverage 1 \
        --destdir "$VOCAB" --overwrite
    step pretrain "A tiny pre-trained model" "$OUT/pretrained" \
        fairseq_train "$OUT/logs/pretrain.log" "$VOCAB" --user-dir fairseq_pmlm --task pmlm --criterion pmlm --cpu \
        --arch pmlm_tiny --relative-positions --max-positions 128 --tokens-per-sample 64 --batch-size 8 \
        "${ADAM[@]}" --lr 1e-3 --warmup-updates 2 --total-num-update 10 --max-update 10 \
        --no-epoch-checkpoints --save-dir "$OUT/pretrained"
fi

step data "The pairs binarized" "$OUT/data" \
    pmlm prepare pairs "${PREPARE[@]}" --vocab-from "$VOCAB" --destdir "$OUT/data" --overwrite
divide_batch
PAIRS=$(wc -l <"$OUT/data/train.src.txt")
UPDATES=$(((PAIRS + BATCH - 1) / BATCH * EPOCHS))
WARM=$(awk "BEGIN { n = int($UPDATES * $WARMUP); print n < 1 ? 1 : n }")
echo "$PAIRS pairs, $EPOCHS epochs: $UPDATES updates of $BATCH sentences, $PER_DEVICE on each of $DEVICES devices, $ACCUMULATE times"
# Published checkpoints have 512 rows; a smaller table need not be asked for.
[ -n "$SMOKE" ] || [ $((MAX_SOURCE + MAX_TARGET)) -gt 512 ] || TABLE=${TABLE-}
TABLE=${TABLE-$((MAX_SOURCE + MAX_TARGET))}
TASK=(--user-dir fairseq_pmlm --task pmlm_seq2seq)
step finetune "Fine-tuning" "$OUT/model" \
    fairseq_train "$OUT/logs/finetune.log" "$OUT/data" "${TASK[@]}" --criterion pmlm_seq2seq --label-smoothing 0.1 \
    --arch pmlm --arch-from "$CHECKPOINT" --finetune-from-model "$CHECKPOINT" ${TABLE:+--max-positions "$TABLE"} \
    --max-source-positions "$MAX_SOURCE" --max-target-positions "$MAX_TARGET" --cut-source head --cut-target head \
    --target-mask-prob "$TARGET_MASK" --source-mask-prob "$SOURCE_MASK" \
    --batch-size "$PER_DEVICE" --required-batch-size-multiple 1 --update-freq "$ACCUMULATE" "${MACHINE[@]}" \
    "${ADAM[@]}" --weight-decay 0.01 --lr "$LR" --warmup-updates "$WARM" --total-num-update "$UPDATES" \
    --max-update "$UPDATES" --seed "$SEED" --log-interval 50 --no-epoch-checkpoints --save-dir "$OUT/model" \
    $([ ${#MACHINE[@]} -gt 0 ] && [ "${MACHINE[0]}" = --cpu ] || echo "--distributed-world-size $DEVICES")
step generate "Generation" "$OUT/generate.txt" \
    generate "$OUT/generate.txt" "$OUT/data" "${TASK[@]}" --path "$OUT/model/checkpoint_best.pt" --gen-subset test \
    --beam "$BEAM" --length-penalty-type wu --lenpen "$LENPEN" --min-len "$MIN_LEN" --max-len-b "$MAX_LEN" \
    --no-repeat-ngram-size "$NGRAM" ${NGRAM_IGNORE:+--no-repeat-ngram-ignore "$NGRAM_IGNORE"} \
    --batch-size 32 "${MACHINE[@]}"
step hypotheses "Hypotheses in the order of the data" "$OUT/hyp.txt" \
    pmlm hypotheses "$OUT/generate.txt" --out "$OUT/hyp.txt" --save-json "$OUT/hyp.jsonl"
REFERENCES=()
for file in "$OUT"/data/test.ref*.txt; do [ ! -e "$file" ] || REFERENCES+=(--ref "$file"); done
[ ${#REFERENCES[@]} -gt 0 ] || REFERENCES=(--ref "$OUT/data/test.tgt.txt")
score() {
    set -- pmlm score --preset "$PRESET" --hyp "$OUT/hyp.txt" "$@" --save-json "$OUT/scores.json"
    echo_command "$@" ">$OUT/scores.txt"
    "$@" >"$OUT/scores.txt.tmp"
    mv "$OUT/scores.txt.tmp" "$OUT/scores.txt"
}
step scores "Scores" "$OUT/scores.txt" score "${REFERENCES[@]}"
echo
cat "$OUT/scores.txt"
echo
echo "Done in $((SECONDS / 60)) min $((SECONDS % 60)) s. Everything is in $OUT."
