#!/usr/bin/env bash
# The small model of the experiments on understanding: 3 layers of 192, pre-trained on general English, then on film reviews.
# About an hour and a half on one CPU core.
#
#   bash experiments/small_model.sh TEXT OUT [UPDATES [REVIEW_UPDATES]]
#
# TEXT is what experiments/text.sh wrote. UPDATES (default: 6500) of 2,048 tokens on TEXT/english are followed by
# REVIEW_UPDATES (2000) on TEXT/reviews. OUT/english.model and OUT/reviews.model hold the checkpoints, OUT/english their
# vocabulary: sst2.sh and fairytaleqa_squad.sh take OUT/reviews.model/checkpoint_last.pt:OUT/english.
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2; }
TEXT=$(realpath "$1") OUT=$(realpath -m "$2") UPDATES=${3:-6500} REVIEW_UPDATES=${4:-2000} NAME=small_model.sh
cd "$(dirname "$0")/.."
set --  # or setup.sh would take this script's arguments for extras
# shellcheck disable=SC1091
source scripts/setup.sh
history=$(find "$TEXT/english" "$TEXT/reviews" -type f -exec sha256sum {} + | sort)
# shellcheck disable=SC1091
source scripts/steps.sh
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
machine

step english "General English" "$OUT/english" \
    pmlm prepare text --text "$TEXT/english" --vocab-size 12000 --sentencepiece-lines 300000 \
    --deduplicate --valid-fraction 0.005 --workers 2 --destdir "$OUT/english" --overwrite
step reviews "Reviews" "$OUT/reviews" \
    pmlm prepare text --text "$TEXT/reviews" --vocab-from "$OUT/english" --valid-fraction 0.02 \
    --workers 2 --destdir "$OUT/reviews" --overwrite
# pretrain DATA UPDATES LR WARMUP OPTION...
pretrain() {
    local data=$1 updates=$2 rate=$3 warmup=$4
    shift 4
    step "$data.model" "Pre-training on $data, $updates updates" "$OUT/$data.model" \
        fairseq_train "$OUT/logs/$data.log" "$OUT/$data" --user-dir fairseq_pmlm --task pmlm --criterion pmlm --arch pmlm \
        --encoder-layers 3 --encoder-embed-dim 192 --encoder-ffn-embed-dim 768 --encoder-attention-heads 6 \
        --max-positions 128 --relative-positions --relative-position-slope 1.0 --dropout 0.0 --attention-dropout 0.0 \
        --init-std 0.05 --optimizer adam --adam-betas "(0.9,0.98)" --adam-eps 1e-6 --weight-decay 0.01 --clip-norm 1.0 \
        --lr-scheduler polynomial_decay --lr "$rate" --warmup-updates "$warmup" --total-num-update "$updates" \
        --max-update "$updates" --tokens-per-sample 128 --sample-break-mode none --batch-size 16 \
        --required-batch-size-multiple 1 --num-workers 0 --no-epoch-checkpoints --validate-interval-updates 500 \
        --save-interval-updates 500 --keep-interval-updates 1 --log-interval 100 --seed 1 "${MACHINE[@]}" "$@" \
        --save-dir "$OUT/$data.model"
}
pretrain english "$UPDATES" 1.5e-3 300
pretrain reviews "$REVIEW_UPDATES" 5e-4 100 --finetune-from-model "$OUT/english.model/checkpoint_last.pt"
