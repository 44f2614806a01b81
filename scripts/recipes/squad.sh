#!/usr/bin/env bash
# SQuAD 1.1 or 2.0: a checkpoint fine-tuned with several seeds; mean and standard deviation of EM and F1 on the dev set.
#
#   bash scripts/recipes/squad.sh DATA CHECKPOINT OUT [options]
#   bash scripts/recipes/squad.sh --smoke [OUT]     the whole path in minutes, on examples made on the spot
#
# DATA holds SQuAD's JSON as train-v1.1.json and dev-v1.1.json, or the same of v2.0, plain or .gz. CHECKPOINT is a
# pre-trained model; dict.txt and the tokenizer file are those of --vocab-from (default: its directory). Settings are those
# of the UniLMv2 paper (table 9): batches of 32, learning rate 2e-5, warm-up over 0.1 of the updates, 4 epochs. Published
# with them (base size, with relative positions): F1/EM 93.1/87.1 for version 1.1, 86.1/83.3 for version 2.0.
#
#   --version 1.1|2.0         which one, where DATA holds both
#   --vocab-from DIR          directory with the dict.txt and tokenizer file that CHECKPOINT was trained with
#   --seeds N                 seeds 1 to N (default: 3)
#   --batch N, --lr F, --epochs N, --warmup F    instead of the published settings
#   --max-source-positions N  longest window in tokens (default: 384); --doc-stride N (default: 128)
#   --windows-per-device N    windows that fit the device at a time; the rest of an update is accumulated (default: 32)
#   --precision fp32|bf16     default: bf16 on a GPU, fp32 on the CPU
#
# Every command is echoed as it runs, on one GPU or the CPU. A second run skips what is done, and with more --seeds trains
# those alone. OUT receives data/, seed1/, seed2/, ... with checkpoint_best.pt, answers1/, answers2/, ... with predictions
# in the official format, and table.md. The threshold of version 2.0 is tuned on the dev set, as in published results.
set -euo pipefail
NAME=squad HERE=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

fail() { echo "$NAME: $1" >&2; exit 2; }
from_here() { case $1 in /*) echo "$1" ;; *) echo "$HERE/$1" ;; esac; }
need_number() { case $2 in "" | 0* | *[!0-9]*) fail "$1 $2: expected a whole number of at least 1" ;; esac; }
need_real() { [[ $2 =~ ^[0-9]*\.?[0-9]+(e-?[0-9]+)?$ ]] || fail "$1 $2: expected a number such as 2e-5"; }

SMOKE="" VOCAB="" VERSION="" SEEDS=3 BATCH=32 LR=2e-5 EPOCHS=4 WARMUP=0.1 WINDOW=384 STRIDE=128 FIT=32 PRECISION=""
QUESTION=64 PLACES=() GIVEN=()
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) sed -n '2,/^set /p' "scripts/recipes/squad.sh" | sed '$d; s/^# \{0,1\}//'; exit 0 ;;
        --smoke) SMOKE=yes; shift; continue ;;
        --version | --vocab-from | --seeds | --batch | --lr | --epochs | --warmup | --max-source-positions | --doc-stride | --windows-per-device | --precision)
            [ $# -ge 2 ] || fail "$1 needs a value"
            GIVEN+=("$1") ;;&
        --seeds | --batch | --epochs | --max-source-positions | --doc-stride | --windows-per-device) need_number "$1" "$2" ;;&
        --lr | --warmup) need_real "$1" "$2" ;;&
        --precision) case $2 in fp32 | bf16) PRECISION=$2 ;; *) fail "--precision $2: expected fp32 or bf16" ;; esac ;;
        --version) case $2 in 1.1 | 2.0) VERSION=$2 ;; *) fail "--version $2: expected 1.1 or 2.0" ;; esac ;;
        --vocab-from) VOCAB=$(from_here "$2") ;;
        --seeds) SEEDS=$2 ;;
        --batch) BATCH=$2 ;;
        --lr) LR=$2 ;;
        --epochs) EPOCHS=$2 ;;
        --warmup) WARMUP=$2 ;;
        --max-source-positions) WINDOW=$2 ;;
        --doc-stride) STRIDE=$2 ;;
        --windows-per-device) FIT=$2 ;;
        -*) fail "unknown option $1 (see --help)" ;;
        *) PLACES+=("$(from_here "$1")"); shift; continue ;;
    esac
    shift 2
done
awk "BEGIN { exit !($WARMUP < 1) }" || fail "--warmup $WARMUP: expected a share of the updates, less than 1"
# find_file BASE: a file of DATA, plain or .gz; nothing if there is none.
find_file() {
    local path
    for path in "$DATA/$1" "$DATA/$1.gz"; do [ ! -f "$path" ] || { echo "$path"; return; }; done
}
# find_data: TRAIN and DEV of the one version there is, or of the one asked for.
find_data() {
    local version found=()
    for version in ${VERSION:-1.1 2.0}; do
        [ -z "$(find_file "train-v$version.json")" ] || [ -z "$(find_file "dev-v$version.json")" ] || found+=("$version")
    done
    [ ${#found[@]} -gt 0 ] ||
        fail "$DATA holds no train-v${VERSION:-1.1}.json with dev-v${VERSION:-1.1}.json$([ -n "$VERSION" ] || echo ", nor the same of v2.0")"
    [ ${#found[@]} -eq 1 ] || fail "$DATA holds both versions of SQuAD; give --version 1.1 or 2.0"
    VERSION=${found[0]} TRAIN=$(find_file "train-v$VERSION.json") DEV=$(find_file "dev-v$VERSION.json")
}
if [ -n "$SMOKE" ]; then
    [ ${#PLACES[@]} -le 1 ] && [ ${#GIVEN[@]} -eq 0 ] || fail "--smoke takes an output directory and nothing else"
    OUT=${PLACES[0]-$PWD/smoke-output/squad} DATA="" CHECKPOINT=""
    SEEDS=2 EPOCHS=2 BATCH=8 FIT=4 WINDOW=64 STRIDE=16 QUESTION=32 PRECISION=fp32
else
    [ ${#PLACES[@]} -eq 3 ] || fail "expected DATA CHECKPOINT OUT, found ${#PLACES[@]} of them (see --help)"
    DATA=${PLACES[0]} CHECKPOINT=${PLACES[1]} OUT=${PLACES[2]}
    [ -d "$DATA" ] || fail "there is no directory $DATA"
    [ -f "$CHECKPOINT" ] || fail "there is no checkpoint $CHECKPOINT"
    VOCAB=${VOCAB:-$(dirname "$CHECKPOINT")}
    [ -f "$VOCAB/dict.txt" ] || fail "there is no $VOCAB/dict.txt; give --vocab-from DIR, the data directory of the pre-training"
    for place in "$DATA" "$CHECKPOINT" "$VOCAB"; do
        case $(realpath -m "$place")/ in "$(realpath -m "$OUT")"/*) fail "$place lies in the output directory $OUT; choose another" ;; esac
    done
    find_data
fi
for ((ACCUMULATE = 1; ; ACCUMULATE++)); do
    [ $((BATCH % ACCUMULATE)) -ne 0 ] || [ $((BATCH / ACCUMULATE)) -gt "$FIT" ] || break
done

set --  # or setup.sh would take this script's arguments for extras
# shellcheck disable=SC1091
source scripts/setup.sh
history=""
[ -n "$SMOKE" ] || history=$(sha256sum "$TRAIN" "$DEV" "$CHECKPOINT" "$VOCAB/dict.txt")
# shellcheck disable=SC1091
source scripts/steps.sh
if [ -n "$SMOKE" ] || [ "$(python -c "import torch; print(torch.cuda.device_count())")" -eq 0 ]; then
    [ "${PRECISION:-fp32}" = fp32 ] || fail "--precision $PRECISION needs a GPU"
    MACHINE=(--cpu) DEVICE=(--cpu)
else
    MACHINE=(--distributed-world-size 1) DEVICE=()
    [ "${PRECISION:-bf16}" = fp32 ] || MACHINE+=(--bf16)
fi

if [ -n "$SMOKE" ]; then
    DATA=$OUT/examples VOCAB=$OUT/text CHECKPOINT=$OUT/pretrained/checkpoint_last.pt
    step examples "Examples, made on the spot" "$DATA" \
        python scripts/recipes/smoke_examples.py squad --destdir "$DATA"
    find_data
    step text "Vocabulary, and the pre-training text" "$VOCAB" \
        pmlm prepare text --text "$DATA/text.txt" --vocab-size 60 --character-coverage 1 \
        --destdir "$VOCAB" --overwrite
    step pretrain "A tiny pre-trained model" "$OUT/pretrained" \
        fairseq_train "$OUT/logs/pretrain.log" "$VOCAB" --user-dir fairseq_pmlm --task pmlm --criterion pmlm --cpu \
        --arch pmlm_tiny --relative-positions --max-positions 128 --tokens-per-sample 64 --batch-size 8 \
        --optimizer adam --lr 1e-3 --lr-scheduler polynomial_decay --warmup-updates 2 --total-num-update 10 \
        --max-update 10 --no-epoch-checkpoints --save-dir "$OUT/pretrained"
fi
step data "The questions and passages binarized" "$OUT/data" \
    pmlm prepare squad --train "$TRAIN" --valid "$DEV" --vocab-from "$VOCAB" \
    --max-source-positions "$WINDOW" --doc-stride "$STRIDE" --max-question-positions "$QUESTION" \
    --destdir "$OUT/data" --overwrite
WINDOWS=$(python -c "import sys, numpy; print(len(numpy.load(sys.argv[1], mmap_mode='r')))" "$OUT/data/train.windows.npy")
UPDATES=$(((WINDOWS + BATCH - 1) / BATCH * EPOCHS))
WARM=$(awk "BEGIN { n = int($UPDATES * $WARMUP); print n < 1 ? 1 : n }")
METRIC=f1
[ "$VERSION" = 1.1 ] || METRIC=best_f1
echo "$WINDOWS windows, $EPOCHS epochs: $UPDATES updates of $BATCH windows, $((BATCH / ACCUMULATE)) at a time, $ACCUMULATE times"

before=$history all= SCORES=()
for ((SEED = 1; SEED <= SEEDS; SEED++)); do
    history=$before  # one seed is no input of the next
    step "seed$SEED" "Fine-tuning, seed $SEED of $SEEDS" "$OUT/seed$SEED" \
        fairseq_train "$OUT/logs/seed$SEED.log" "$OUT/data" --user-dir fairseq_pmlm --task pmlm_squad \
        --criterion pmlm_squad --arch pmlm --arch-from "$CHECKPOINT" --finetune-from-model "$CHECKPOINT" \
        --optimizer adam --adam-betas "(0.9,0.999)" --adam-eps 1e-8 --weight-decay 0.01 --clip-norm 1.0 \
        --lr "$LR" --lr-scheduler polynomial_decay --warmup-updates "$WARM" --total-num-update "$UPDATES" \
        --max-update "$UPDATES" --batch-size $((BATCH / ACCUMULATE)) --required-batch-size-multiple 1 \
        --update-freq "$ACCUMULATE" "${MACHINE[@]}" --best-checkpoint-metric $METRIC --maximize-best-checkpoint-metric \
        --seed "$SEED" --log-interval 50 --no-epoch-checkpoints --no-last-checkpoints --save-dir "$OUT/seed$SEED"
    step "answers$SEED" "Answers, seed $SEED of $SEEDS" "$OUT/answers$SEED" \
        pmlm predict "$OUT/data" --path "$OUT/seed$SEED/checkpoint_best.pt" --split valid \
        --destdir "$OUT/answers$SEED" --max-tokens $((FIT * WINDOW)) "${DEVICE[@]}"
    SCORES+=("$OUT/answers$SEED/scores.json") all+=$history
done
history=$all
step table "Mean and standard deviation" "$OUT/table.md" pmlm seeds "${SCORES[@]}" --out "$OUT/table.md"
echo
cat "$OUT/table.md"
echo
echo "Done in $((SECONDS / 60)) min $((SECONDS % 60)) s. Everything is in $OUT."
