#!/usr/bin/env bash
# SST-2 at sentence level: accuracy of a pre-trained model, of the same architecture from scratch, and of an imported one.
#
#   bash experiments/sst2.sh DATA PRETRAINED IMPORTED OUT [EPOCHS [BATCH [SEEDS]]]
#
# DATA holds train.tsv, valid.tsv and test.tsv, a sentence and its label with a tab between them. PRETRAINED and IMPORTED are
# checkpoints beside their dict.txt and tokenizer, or, where these lie elsewhere, CHECKPOINT:DIR. Each model is trained for
# EPOCHS (default: 3) in batches of BATCH (32) with SEEDS (3) seeds; LR_PRETRAINED, LR_SCRATCH and LR_IMPORTED (5e-4, 5e-4,
# 5e-5) are the learning rates. What is best on valid is tested; OUT/table.md has the accuracy on test.
set -euo pipefail
[ $# -ge 4 ] || { sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 2; }
DATA=$(realpath "$1") OUT=$(realpath -m "$4") EPOCHS=${5:-3} BATCH=${6:-32} SEEDS=${7:-3} NAME=sst2.sh
declare -A RATE=(
    [pretrained]=${LR_PRETRAINED:-5e-4} [scratch]=${LR_SCRATCH:-5e-4} [imported]=${LR_IMPORTED:-5e-5})
history="$EPOCHS $BATCH $(sha256sum "$DATA"/*.tsv)"
# shellcheck disable=SC1091
source "$(dirname "$0")/systems.sh"
systems "$2" "$3"
UPDATES=$((($(wc -l <"$DATA/train.tsv") + BATCH - 1) / BATCH * EPOCHS))
before=$history all=
for model in pretrained scratch imported; do
    data=$OUT/data.${model/scratch/pretrained}
    history="$before $model ${DIGEST[$model]}"
    [ "$model" = scratch ] || step "data.$model" "Data for the $model model" "$data" \
        pmlm prepare glue --train "$DATA/train.tsv" --valid "$DATA/valid.tsv" --test "$DATA/test.tsv" \
        --no-header --texts 1 --label 2 --vocab-from "${VOCAB[$model]}" --destdir "$data" --overwrite
    model_before=$history
    for ((SEED = 1; SEED <= SEEDS; SEED++)); do
        history=$model_before RUN=$OUT/$model.$SEED
        step "$model.$SEED" "Fine-tuning, $model, seed $SEED" "$RUN" \
            train "$model" "$SEED" "$RUN" "$data" --task sentence_prediction --init-token 0 --num-classes 2 \
            --criterion pmlm_sentence_prediction --pooler-dropout 0.1 --lr "${RATE[$model]}" \
            --warmup-updates $((UPDATES / 10 + 1)) --total-num-update "$UPDATES" --max-update "$UPDATES" \
            --batch-size "$BATCH" --no-last-checkpoints --best-checkpoint-metric accuracy \
            --maximize-best-checkpoint-metric --log-interval 50
        step "labels.$model.$SEED" "Labels, $model, seed $SEED" "$OUT/labels.$model.$SEED" \
            pmlm predict "$data/test.jsonl" --path "$RUN/checkpoint_best.pt" --data "$data" \
            --format label --out "$OUT/labels.$model.$SEED"
        all+=$history
    done
done
history=$all
step table "Accuracy" "$OUT/table.md" \
    python experiments/sst2_table.py "$OUT" --seeds "$SEEDS" --out "$OUT/table.md"
cat "$OUT/table.md"
