#!/usr/bin/env bash
# SST-2 at sentence level, end to end, on a CPU: a small model pre-trained on real text, the same from random weights,
# and an imported checkpoint, all with the vocabulary of the last one.
#
#   bash scripts/experiments/sst2.sh DATA TEXT IMPORTED OUT
#
# DATA holds train.tsv, valid.tsv and test.tsv, a sentence and its label with a tab between them; TEXT is a file or a
# directory of plain text; IMPORTED a directory that scripts/import_checkpoint.py wrote. From the environment:
# PRETRAIN_UPDATES (default: 8000), PRETRAIN_LR (1e-3), EPOCHS (3), SEEDS (3), ARCH (pmlm_mini), INIT_STD (0.04; 0.06 for
# pmlm_tiny), TRAIN_LINES (all; fewer to try it out).
# Each training keeps the checkpoint that is best on valid; OUT/table.md has the accuracy on test.
set -euo pipefail
[ $# -eq 4 ] || { sed -n '2,12s/^# \{0,1\}//p' "$0" >&2; exit 2; }
DATA=$(realpath "$1") TEXT=$(realpath "$2") IMPORTED=$(realpath "$3") OUT=$(realpath -m "$4") NAME=sst2.sh
PRETRAIN_UPDATES=${PRETRAIN_UPDATES:-8000} PRETRAIN_LR=${PRETRAIN_LR:-1e-3} EPOCHS=${EPOCHS:-3} SEEDS=${SEEDS:-3}
ARCH=${ARCH:-pmlm_mini} INIT_STD=${INIT_STD:-0.04} TRAIN_LINES=${TRAIN_LINES:-1000000000}
cd "$(dirname "$0")/../.."
set --  # or setup.sh would take this script's arguments for extras
# shellcheck disable=SC1091
source scripts/setup.sh
history=$(sha256sum "$DATA"/*.tsv "$IMPORTED/model.pt")
# shellcheck disable=SC1091
source scripts/steps.sh
TABLES=(--no-header --texts 1 --label 2)
step text "Text to pre-train on" "$OUT/text" \
    python scripts/prepare_pretraining.py --text "$TEXT" --vocab-from "$IMPORTED" --valid-fraction 0.01 \
    --destdir "$OUT/text" --overwrite
head -n "$TRAIN_LINES" "$DATA/train.tsv" >"$OUT/train.tsv"
step data "SST-2 binarized" "$OUT/data" \
    python scripts/prepare_glue.py --train "$OUT/train.tsv" --valid "$DATA/valid.tsv" --test "$DATA/test.tsv" \
    "${TABLES[@]}" --vocab-from "$IMPORTED" --destdir "$OUT/data" --overwrite
# As in scripts/demo.sh: what lets a narrow model learn much in few updates.
SMALL=(--arch "$ARCH" --encoder-attention-heads 4 --relative-positions --relative-position-slope 1.0
    --init-std "$INIT_STD" --max-positions 128)
ADAM=(--user-dir fairseq_pmlm --optimizer adam --adam-betas "(0.9,0.98)" --adam-eps 1e-6 --weight-decay 0.01
    --clip-norm 1.0 --lr-scheduler polynomial_decay --cpu --no-epoch-checkpoints --num-workers 0 --log-interval 50)
step pretrain "Pre-training" "$OUT/pretrained" \
    fairseq_train "$OUT/logs/pretrain.log" "$OUT/text" --task pmlm --criterion pmlm "${SMALL[@]}" "${ADAM[@]}" \
    --dropout 0.0 --attention-dropout 0.0 --tokens-per-sample 96 --sample-break-mode complete_doc --max-tokens 3000 \
    --lr "$PRETRAIN_LR" --warmup-updates $((PRETRAIN_UPDATES / 20 + 1)) --total-num-update "$PRETRAIN_UPDATES" \
    --max-update "$PRETRAIN_UPDATES" --validate-interval-updates 1000 --save-interval-updates 1000 \
    --keep-interval-updates 1 --save-dir "$OUT/pretrained"
UPDATES=$((($(wc -l <"$OUT/train.tsv") + 31) / 32 * EPOCHS))
CHECKPOINT=$OUT/pretrained/checkpoint_last.pt
before=$history
for SYSTEM in pretrained scratch imported; do
    case $SYSTEM in
        pretrained) MODEL=(--arch pmlm --arch-from "$CHECKPOINT" --finetune-from-model "$CHECKPOINT" --lr 2e-4) ;;
        scratch) MODEL=("${SMALL[@]}" --lr 2e-4) ;;
        imported) MODEL=(--arch pmlm --arch-from "$IMPORTED/model.pt" --finetune-from-model "$IMPORTED/model.pt" --lr 5e-5) ;;
    esac
    for ((SEED = 1; SEED <= SEEDS; SEED++)); do
        history=$before
        RUN=$OUT/$SYSTEM.$SEED
        step "$SYSTEM.$SEED" "$SYSTEM: seed $SEED of $SEEDS" "$RUN" \
            fairseq_train "$OUT/logs/$SYSTEM.$SEED.log" "$OUT/data" --task sentence_prediction --init-token 0 \
            --num-classes 2 --criterion pmlm_sentence_prediction "${MODEL[@]}" "${ADAM[@]}" --pooler-dropout 0.1 \
            --batch-size 32 --warmup-updates $((UPDATES / 10 + 1)) --total-num-update "$UPDATES" --max-update "$UPDATES" \
            --best-checkpoint-metric accuracy --maximize-best-checkpoint-metric --no-last-checkpoints --seed "$SEED" \
            --save-dir "$RUN"
        step "$SYSTEM.$SEED.test" "$SYSTEM: test, seed $SEED" "$RUN.labels" \
            python scripts/predict.py "$OUT/data/test.jsonl" --path "$RUN/checkpoint_best.pt" --data "$OUT/data" --cpu \
            --format label --out "$RUN.labels"
    done
done
history="$before $SEEDS"
step table "Accuracy" "$OUT/table.md" \
    python scripts/experiments/sst2_table.py "$OUT" --seeds "$SEEDS" --out "$OUT/table.md"
cat "$OUT/table.md"
