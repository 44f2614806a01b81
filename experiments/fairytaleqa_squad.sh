#!/usr/bin/env bash
# Extractive question answering on real questions: FairytaleQA's literal answers as SQuAD 1.1. Exact match and F1 of a
# pre-trained model, of the same architecture from scratch, of an imported model, and of answers that need no model.
#
#   bash experiments/fairytaleqa_squad.sh DATA PRETRAINED IMPORTED OUT [UPDATES [BATCH [SEEDS]]]
#
# DATA holds train.jsonl and valid.jsonl as published. PRETRAINED and IMPORTED are checkpoints beside their dict.txt and
# tokenizer, or, where these lie elsewhere, CHECKPOINT:DIR. UPDATES (default: 600) of BATCH (16) windows are those of each
# model, for SEEDS (3) seeds; LR_PRETRAINED, LR_SCRATCH and LR_IMPORTED (5e-4, 5e-4, 1e-4) their learning rates; windows have
# WINDOW (256) tokens and start STRIDE (96) tokens after each other. OUT/table.md has all systems with intervals,
# OUT/*.seeds.md mean and deviation over the seeds.
set -euo pipefail
[ $# -ge 4 ] || { sed -n '2,12s/^# \{0,1\}//p' "$0" >&2; exit 2; }
DATA=$(realpath "$1") OUT=$(realpath -m "$4") UPDATES=${5:-600} BATCH=${6:-16} SEEDS=${7:-3} NAME=fairytaleqa_squad.sh
declare -A RATE=(
    [pretrained]=${LR_PRETRAINED:-5e-4} [scratch]=${LR_SCRATCH:-5e-4} [imported]=${LR_IMPORTED:-1e-4})
history="$UPDATES $BATCH $(sha256sum "$DATA"/{train,valid}.jsonl)"
# shellcheck disable=SC1091
source "$(dirname "$0")/systems.sh"
systems "$2" "$3"
step questions "Questions whose answer is literal" "$OUT/squad" \
    python experiments/fairytaleqa_squad.py convert --train "$DATA/train.jsonl" --valid "$DATA/valid.jsonl" \
    --destdir "$OUT/squad"
SYSTEMS=() before=$history all=
for model in pretrained scratch imported; do
    data=$OUT/data.${model/scratch/pretrained}
    history="$before $model ${DIGEST[$model]}"
    [ "$model" = scratch ] || step "data.$model" "Data for the ${model} model" "$data" \
        pmlm prepare squad --train "$OUT/squad/train.json" --valid "$OUT/squad/valid.json" \
        --vocab-from "${VOCAB[$model]}" --max-source-positions "${WINDOW:-256}" --doc-stride "${STRIDE:-96}" --max-question-positions 48 \
        --destdir "$data" --overwrite
    SCORES=() model_before=$history seeds=
    for ((SEED = 1; SEED <= SEEDS; SEED++)); do
        history=$model_before
        step "$model.$SEED" "Fine-tuning, $model, seed $SEED" "$OUT/$model.$SEED" \
            train "$model" "$SEED" "$OUT/$model.$SEED" "$data" --task pmlm_squad --criterion pmlm_squad \
            --lr "${RATE[$model]}" --warmup-updates $(((UPDATES + 9) / 10)) --total-num-update "$UPDATES" \
            --max-update "$UPDATES" --batch-size "$BATCH" --disable-validation --log-interval 20
        step "answers.$model.$SEED" "Answers, $model, seed $SEED" "$OUT/answers.$model.$SEED" \
            pmlm predict "$data" --path "$OUT/$model.$SEED/checkpoint_last.pt" \
            --destdir "$OUT/answers.$model.$SEED"
        SCORES+=("$OUT/answers.$model.$SEED/scores.json") SYSTEMS+=("$model=$OUT/answers.$model.$SEED/predictions.json") seeds+=$history
    done
    history=$seeds all+=$seeds
    step "seeds.$model" "Over the seeds, $model" "$OUT/$model.seeds.md" \
        pmlm seeds "${SCORES[@]}" --out "$OUT/$model.seeds.md"
done
history=$all
step table "Beside answers that need no model" "$OUT/table.md" \
    python experiments/fairytaleqa_squad.py baselines --train "$OUT/squad/train.json" \
    --valid "$OUT/squad/valid.json" "${SYSTEMS[@]}" --out "$OUT/table.md"
for model in pretrained scratch imported; do echo; echo "$model"; cat "$OUT/$model.seeds.md"; done
