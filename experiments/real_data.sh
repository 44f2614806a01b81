#!/usr/bin/env bash
# What a few minutes on one CPU thread give on published data: ours from a pre-trained checkpoint, fairseq's Transformer
# from scratch for the same time, and answers that need no model.
#
#   bash experiments/real_data.sh scitldr DATA CHECKPOINT OUT [MINUTES]       abstract -> one sentence
#   bash experiments/real_data.sh fairytaleqa DATA CHECKPOINT OUT [MINUTES]   answer and passage -> question
#
# DATA holds train.jsonl and valid.jsonl as published (valid is the test set here); CHECKPOINT lies beside its dict.txt and
# tokenizer. MINUTES (default: 10) is the training time of each model. OUT/table.md is the result.
set -euo pipefail
[ $# -ge 4 ] || { sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2; }
TASK=$1 DATA=$(realpath "$2") CHECKPOINT=$(realpath "$3") OUT=$(realpath -m "$4") MINUTES=${5:-10} NAME=real_data.sh
case $TASK in
    scitldr) KEYS=() SOURCE=256 TARGET=48 PRESET=xsum MIN_LEN=8 ;;
    fairytaleqa) KEYS=(--source-keys answer passage --target-key question) SOURCE=256 TARGET=32 PRESET=squad-qg MIN_LEN=1 ;;
    *) echo "real_data.sh: unknown data $TASK; there are scitldr and fairytaleqa" >&2; exit 2 ;;
esac
cd "$(dirname "$0")/.."
set --  # or setup.sh would take this script's arguments for extras
# shellcheck disable=SC1091
source scripts/setup.sh
history="$MINUTES $(sha256sum "$DATA"/{train,valid}.jsonl "$CHECKPOINT")"
# shellcheck disable=SC1091
source scripts/steps.sh
export OMP_NUM_THREADS=1
HOURS=$(awk "BEGIN { print $MINUTES / 60 }")
step data "Pairs" "$OUT/data" \
    pmlm prepare pairs --train "$DATA/train.jsonl" --test "$DATA/valid.jsonl" "${KEYS[@]}" \
    --vocab-from "$(dirname "$CHECKPOINT")" --destdir "$OUT/data" --overwrite
COMMON=(--user-dir fairseq_pmlm --cpu --disable-validation --no-epoch-checkpoints --optimizer adam --weight-decay 0.01
    --clip-norm 1.0 --lr-scheduler inverse_sqrt --stop-time-hours "$HOURS" --num-workers 0 --log-interval 20)
step ours "Ours" "$OUT/ours" \
    fairseq_train "$OUT/logs/ours.log" "$OUT/data" --task pmlm_seq2seq --criterion pmlm_seq2seq --label-smoothing 0.1 \
    --arch pmlm --arch-from "$CHECKPOINT" --finetune-from-model "$CHECKPOINT" "${COMMON[@]}" --lr 5e-4 --warmup-updates 30 \
    --max-source-positions $SOURCE --max-target-positions $TARGET --cut-source head --cut-target head --max-tokens 3000 \
    --save-dir "$OUT/ours"
SEARCH=(--user-dir fairseq_pmlm --cpu --beam 5 --min-len $MIN_LEN --max-len-b $((TARGET - 1)) --no-repeat-ngram-size 3
    --batch-size 16 --num-workers 0)
step ours.generate "Ours: generation" "$OUT/ours.txt" \
    generate "$OUT/ours.txt" "$OUT/data" --task pmlm_seq2seq --path "$OUT/ours/checkpoint_last.pt" "${SEARCH[@]}"
step ours.hyp "Ours: hypotheses" "$OUT/ours.hyp" pmlm hypotheses "$OUT/ours.txt" --out "$OUT/ours.hyp"
# The same width, depth in all, vocabulary and tokens an update. Validation sets are for early stopping, which none has.
step scratch "fairseq's Transformer from scratch" "$OUT/scratch" \
    fairseq_train "$OUT/logs/scratch.log" "$OUT/data" --task translation --source-lang src --target-lang tgt \
    --criterion label_smoothed_cross_entropy --label-smoothing 0.1 --arch transformer --encoder-layers 3 \
    --decoder-layers 3 --encoder-embed-dim 384 --decoder-embed-dim 384 --encoder-ffn-embed-dim 1536 \
    --decoder-ffn-embed-dim 1536 --encoder-attention-heads 6 --decoder-attention-heads 6 --share-all-embeddings \
    --dropout 0.1 "${COMMON[@]}" --lr 1e-3 --warmup-updates 100 --max-source-positions $SOURCE --truncate-source \
    --max-tokens 2500 --save-dir "$OUT/scratch"
step scratch.generate "From scratch: generation" "$OUT/scratch.txt" \
    generate "$OUT/scratch.txt" "$OUT/data" --task translation --source-lang src --target-lang tgt \
    --path "$OUT/scratch/checkpoint_last.pt" --truncate-source --max-source-positions $SOURCE --bpe pmlm_wordpiece \
    --wordpiece-vocab "$OUT/data/vocab.txt" "${SEARCH[@]}"
step scratch.hyp "From scratch: hypotheses" "$OUT/scratch.hyp" \
    pmlm hypotheses "$OUT/scratch.txt" --out "$OUT/scratch.hyp"
step table "Scores" "$OUT/table.md" \
    python experiments/quality_table.py "$OUT/data" --preset $PRESET --out "$OUT/table.md" \
    ours="$OUT/ours.hyp" "fairseq's Transformer from scratch"="$OUT/scratch.hyp"
cat "$OUT/table.md"
