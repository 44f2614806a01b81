#!/usr/bin/env bash
# A GLUE task: a checkpoint fine-tuned with several seeds; mean and standard deviation on the validation set.
#
#   bash scripts/recipes/glue.sh TASK DATA CHECKPOINT OUT [options]
#   bash scripts/recipes/glue.sh --smoke TASK [OUT]     the whole path in minutes, on examples made on the spot
#
# TASK is CoLA, SST-2, MRPC, STS-B, QQP, MNLI, QNLI, RTE or WNLI, and DATA holds its files as published. CHECKPOINT is a
# pre-trained model; dict.txt and the tokenizer file are those of --vocab-from (default: its directory). The UniLMv2 paper
# (table 9) has batches of 16 or 32, learning rates of 5e-6 to 3e-5, 10 or 15 epochs, warm-up over 0.1 or 0.2 of the
# updates, and these results for the base size (development sets): MNLI 88.5, SST-2 95.1, MRPC 91.8, RTE 81.3, QNLI
# 93.5, QQP 91.7, STS-B 91.0, CoLA 65.2.
#
#   --vocab-from DIR         directory with the dict.txt and tokenizer file that CHECKPOINT was trained with
#   --seeds N                seeds 1 to N (default: 3)
#   --batch N                texts an update (default: 32)
#   --lr F                   default: 2e-5
#   --epochs N               default: 10
#   --warmup F               share of the updates (default: 0.1)
#   --layer-lr-decay F       a smaller learning rate for each layer towards the text (default: none)
#   --max-positions N        longest text or pair in tokens; longer ones are cut, and counted (default: CHECKPOINT's)
#   --texts-per-device N     texts that fit the device at a time; the rest of an update is accumulated (default: 32)
#   --precision fp32|bf16    default: bf16 on a GPU, fp32 on the CPU
#   --skip-malformed, --skip-empty    leave such records out of the data, and count them (QQP has some)
#
# Every command is echoed as it runs, on one GPU or the CPU. A second run skips what is done, and with more --seeds
# trains those alone; an interrupted training goes on from its last checkpoint. OUT receives data/, seed1/, seed2/, ... with checkpoint_best.pt, and table.md.
set -euo pipefail
NAME=glue HERE=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

fail() { echo "$NAME: $1" >&2; exit 2; }
from_here() { case $1 in /*) echo "$1" ;; *) echo "$HERE/$1" ;; esac; }
need_number() { case $2 in "" | 0* | *[!0-9]*) fail "$1 $2: expected a whole number of at least 1" ;; esac; }
need_real() { [[ $2 =~ ^[0-9]*\.?[0-9]+(e-?[0-9]+)?$ ]] || fail "$1 $2: expected a number such as 2e-5"; }

SMOKE="" VOCAB="" SEEDS=3 BATCH=32 LR=2e-5 EPOCHS=10 WARMUP=0.1 DECAY="" POSITIONS="" FIT=32 PRECISION=""
PLACES=() GIVEN=() SKIP=()
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) sed -n '2,/^set /p' "scripts/recipes/glue.sh" | sed '$d; s/^# \{0,1\}//'; exit 0 ;;
        --smoke) SMOKE=yes; shift; continue ;;
        --skip-malformed | --skip-empty) SKIP+=("$1"); shift; continue ;;
        --vocab-from | --seeds | --batch | --lr | --epochs | --warmup | --layer-lr-decay | --max-positions | --texts-per-device | --precision)
            [ $# -ge 2 ] || fail "$1 needs a value"
            GIVEN+=("$1") ;;&
        --seeds | --batch | --epochs | --max-positions | --texts-per-device) need_number "$1" "$2" ;;&
        --lr | --warmup | --layer-lr-decay) need_real "$1" "$2" ;;&
        --precision) case $2 in fp32 | bf16) PRECISION=$2 ;; *) fail "--precision $2: expected fp32 or bf16" ;; esac ;;
        --vocab-from) VOCAB=$(from_here "$2") ;;
        --seeds) SEEDS=$2 ;;
        --batch) BATCH=$2 ;;
        --lr) LR=$2 ;;
        --epochs) EPOCHS=$2 ;;
        --warmup) WARMUP=$2 ;;
        --layer-lr-decay) DECAY=$2 ;;
        --max-positions) POSITIONS=$2 ;;
        --texts-per-device) FIT=$2 ;;
        -*) fail "unknown option $1 (see --help)" ;;
        *) PLACES+=("$1"); shift; continue ;;
    esac
    shift 2
done
TASK=${PLACES[0]-}
case $TASK in
    CoLA | SST-2 | MRPC | STS-B | QQP | MNLI | QNLI | RTE | WNLI) ;;
    *) fail "TASK ${TASK:-is missing}: there are CoLA, SST-2, MRPC, STS-B, QQP, MNLI, QNLI, RTE and WNLI" ;;
esac
awk "BEGIN { exit !($WARMUP < 1) }" || fail "--warmup $WARMUP: expected a share of the updates, less than 1"
if [ -n "$SMOKE" ]; then
    [ ${#PLACES[@]} -le 2 ] && [ ${#GIVEN[@]} -eq 0 ] && [ ${#SKIP[@]} -eq 0 ] ||
        fail "--smoke takes a task and an output directory, and nothing else"
    if [ ${#PLACES[@]} -eq 2 ]; then OUT=$(from_here "${PLACES[1]}"); else OUT=$PWD/smoke-output/glue-$TASK; fi
    DATA="" CHECKPOINT="" SEEDS=2 EPOCHS=2 BATCH=8 FIT=4 PRECISION=fp32 DECAY=0.9
else
    [ ${#PLACES[@]} -eq 4 ] || fail "expected TASK DATA CHECKPOINT OUT, found ${#PLACES[@]} of them (see --help)"
    DATA=$(from_here "${PLACES[1]}") CHECKPOINT=$(from_here "${PLACES[2]}") OUT=$(from_here "${PLACES[3]}")
    [ -d "$DATA" ] || fail "there is no directory $DATA"
    [ -f "$CHECKPOINT" ] || fail "there is no checkpoint $CHECKPOINT"
    VOCAB=${VOCAB:-$(dirname "$CHECKPOINT")}
    [ -f "$VOCAB/dict.txt" ] || fail "there is no $VOCAB/dict.txt; give --vocab-from DIR, the data directory of the pre-training"
    for place in "$DATA" "$CHECKPOINT" "$VOCAB"; do
        case $(realpath -m "$place")/ in "$(realpath -m "$OUT")"/*) fail "$place lies in the output directory $OUT; choose another" ;; esac
    done
fi
for ((ACCUMULATE = 1; ; ACCUMULATE++)); do
    [ $((BATCH % ACCUMULATE)) -ne 0 ] || [ $((BATCH / ACCUMULATE)) -gt "$FIT" ] || break
done

set --  # or setup.sh would take this script's arguments for extras
# shellcheck disable=SC1091
source scripts/setup.sh
history=""
[ -n "$SMOKE" ] || history=$(find "$DATA" "$CHECKPOINT" "$VOCAB/dict.txt" -type f -exec sha256sum {} + | sort)
# shellcheck disable=SC1091
source scripts/steps.sh
if [ -n "$SMOKE" ] || [ "$(python -c "import torch; print(torch.cuda.device_count())")" -eq 0 ]; then
    [ "${PRECISION:-fp32}" = fp32 ] || fail "--precision $PRECISION needs a GPU"
    MACHINE=(--cpu)
else
    MACHINE=(--distributed-world-size 1)
    [ "${PRECISION:-bf16}" = fp32 ] || MACHINE+=(--bf16)
fi

if [ -n "$SMOKE" ]; then
    DATA=$OUT/examples VOCAB=$OUT/text CHECKPOINT=$OUT/pretrained/checkpoint_last.pt
    step examples "Examples, made on the spot" "$DATA" \
        python scripts/recipes/smoke_examples.py "$TASK" --destdir "$DATA"
    step text "Vocabulary, and the pre-training text" "$VOCAB" \
        pmlm prepare text --text "$DATA/text.txt" --vocab-size 60 --character-coverage 1 \
        --destdir "$VOCAB" --overwrite
    step pretrain "A tiny pre-trained model" "$OUT/pretrained" \
        fairseq_train "$OUT/logs/pretrain.log" "$VOCAB" --user-dir fairseq_pmlm --task pmlm --criterion pmlm --cpu \
        --arch pmlm_tiny --relative-positions --max-positions 128 --tokens-per-sample 64 --batch-size 8 \
        --optimizer adam --lr 1e-3 --lr-scheduler polynomial_decay --warmup-updates 2 --total-num-update 10 \
        --max-update 10 --no-epoch-checkpoints --save-dir "$OUT/pretrained"
fi
step data "The texts binarized" "$OUT/data" \
    pmlm prepare glue --task "$TASK" --data "$DATA" --vocab-from "$VOCAB" "${SKIP[@]}" \
    --destdir "$OUT/data" --overwrite
[ -e "$OUT/data/valid.jsonl" ] || fail "$DATA holds no validation set of $TASK; this recipe compares results on it"
read -r CLASSES METRICS TEXTS < <(python - "$TASK" "$OUT/data" <<'PYTHON'
import sys
import fairseq_pmlm
from fairseq.data import indexed_dataset
from fairseq_pmlm.preparation.glue import TASKS
task = TASKS[sys.argv[1]]
print(len(task.labels), ",".join(task.metrics), len(indexed_dataset.make_dataset(sys.argv[2] + "/input0/train", "mmap")))
PYTHON
)
KIND=(--num-classes "$CLASSES")
[ "$CLASSES" -gt 0 ] || KIND=(--num-classes 1 --regression-target)
SUBSETS=valid
[ ! -e "$OUT/data/valid1.jsonl" ] || SUBSETS=valid,valid1
UPDATES=$(((TEXTS + BATCH - 1) / BATCH * EPOCHS))
WARM=$(awk "BEGIN { n = int($UPDATES * $WARMUP); print n < 1 ? 1 : n }")
ADAM=(adam)
[ -z "$DECAY" ] || ADAM=(pmlm_layer_decay --layer-lr-decay "$DECAY")
echo "$TEXTS records, $EPOCHS epochs: $UPDATES updates of $BATCH texts, $((BATCH / ACCUMULATE)) at a time, $ACCUMULATE times"

before=$history all= LOGS=()
for ((SEED = 1; SEED <= SEEDS; SEED++)); do
    history=$before  # one seed is no input of the next
    step "seed$SEED" "Fine-tuning, seed $SEED of $SEEDS" "$OUT/seed$SEED" \
        fairseq_train "$OUT/logs/seed$SEED.log" "$OUT/data" --user-dir fairseq_pmlm --task sentence_prediction \
        --init-token 0 "${KIND[@]}" --criterion pmlm_sentence_prediction --metrics "$METRICS" --valid-subset $SUBSETS \
        --arch pmlm --arch-from "$CHECKPOINT" --finetune-from-model "$CHECKPOINT" --shorten-method truncate \
        ${POSITIONS:+--max-positions "$POSITIONS"} --pooler-dropout 0.1 \
        --optimizer "${ADAM[@]}" --adam-betas "(0.9,0.999)" --adam-eps 1e-8 --weight-decay 0.01 --clip-norm 1.0 \
        --lr "$LR" --lr-scheduler polynomial_decay --warmup-updates "$WARM" --total-num-update "$UPDATES" \
        --max-update "$UPDATES" --batch-size $((BATCH / ACCUMULATE)) --required-batch-size-multiple 1 \
        --update-freq "$ACCUMULATE" "${MACHINE[@]}" --best-checkpoint-metric score --maximize-best-checkpoint-metric \
        --seed "$SEED" --log-interval 50 --no-epoch-checkpoints --save-dir "$OUT/seed$SEED"
    LOGS+=("$OUT/logs/seed$SEED.log") all+=$history
done
history=$all
step table "Mean and standard deviation" "$OUT/table.md" \
    pmlm seeds "${LOGS[@]}" --out "$OUT/table.md"
echo
cat "$OUT/table.md"
echo
echo "Done in $((SECONDS / 60)) min $((SECONDS % 60)) s. Everything is in $OUT."
