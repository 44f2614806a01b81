#!/usr/bin/env bash
# The main job, end to end: vocabulary, binarize, pre-train, fine-tune, generate, score. Sets up .venv on first use.
#
#   bash scripts/demo.sh                                      docstrings: body -> summary line, about 15 minutes on 2 cores
#   bash scripts/demo.sh --text DIR --pairs FILE.jsonl        your text, and your pairs (JSON lines with src and tgt)
#
# Every command is echoed as it runs, so that you can copy it. A step whose output is there and whole is skipped; after
# an interruption, training goes on from its last checkpoint. Results are in demo-output/ (or --out DIR).
set -euo pipefail
HERE=$PWD
cd "$(dirname "$0")/.."

TEXT="" PAIRS="" OUT=demo-output ARCH=pmlm_tiny VOCAB=2000
PRETRAIN_UPDATES=5000 FINETUNE_UPDATES=2400
usage() { sed -n '2,/^set/p' "$0" | sed '$d; s/^# \{0,1\}//'; }
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage; exit 0 ;;
        --text | --pairs | --out | --arch | --vocab-size | --pretrain-updates | --finetune-updates)
            [ $# -ge 2 ] || { echo "demo: $1 needs a value" >&2; exit 2; } ;;&
        --text | --pairs | --out) case $2 in /*) path=$2 ;; *) path=$HERE/$2 ;; esac ;;&
        --text) TEXT=$path ;;
        --pairs) PAIRS=$path ;;
        --out) OUT=$path ;;
        --arch) ARCH=$2 ;;
        --vocab-size) VOCAB=$2 ;;
        --pretrain-updates) PRETRAIN_UPDATES=$2 ;;
        --finetune-updates) FINETUNE_UPDATES=$2 ;;
        *) echo "demo: unknown option $1 (see --help)" >&2; exit 2 ;;
    esac
    shift 2
done
if [ -n "$TEXT$PAIRS" ] && { [ -z "$TEXT" ] || [ -z "$PAIRS" ]; }; then
    echo "demo: --text DIR and --pairs FILE.jsonl belong together" >&2
    exit 2
fi
for file in "$TEXT" "$PAIRS"; do
    [ -z "$file" ] || [ -e "$file" ] || { echo "demo: $file does not exist" >&2; exit 2; }
done

if [ -n "$TEXT" ]; then source scripts/setup.sh plot; else source scripts/setup.sh demo; fi
NAME=demo history=$([ -z "$TEXT" ] || find "$TEXT" "$PAIRS" -type f -printf '%p %s %T@\n' | sort)
source scripts/steps.sh

if [ -n "$TEXT" ]; then
    step corpus "Your pairs, split 84/4/12 by their sources" "$OUT/corpus" \
        python scripts/demo/split_pairs.py --pairs "$PAIRS" --destdir "$OUT/corpus"
else
    step corpus "Text and pairs from the docstrings of the installed packages" "$OUT/corpus" \
        python scripts/demo/docstrings.py --destdir "$OUT/corpus" --min-support 0
    TEXT=$OUT/corpus/text
fi
step text "Vocabulary, and the pre-training text binarized" "$OUT/data/text" \
    pmlm prepare text --text "$TEXT" --vocab-size "$VOCAB" --sentencepiece-lines 100000 \
    --destdir "$OUT/data/text" --overwrite
step pairs "The pairs binarized" "$OUT/data/pairs" \
    pmlm prepare pairs --train "$OUT/corpus/pairs.train.jsonl" --valid "$OUT/corpus/pairs.valid.jsonl" \
    --test "$OUT/corpus/pairs.test.jsonl" --vocab-from "$OUT/data/text" --destdir "$OUT/data/pairs" --overwrite
step mask "A picture of one example: who sees whom" "$OUT/mask.png" \
    pmlm show-mask "$OUT/data/text" --tokens 32 --out "$OUT/mask.png"

# The published settings are for millions of updates on many GPUs; these are for minutes on two cores: a narrow model
# needs a larger initial scale, heads half of which look nearby from the start, and no dropout or other noise to learn
# much in so few updates.
MODEL=(--arch "$ARCH" --encoder-attention-heads 4 --relative-positions --relative-position-slope 1.0 --init-std 0.06
    --max-positions 256 --dropout 0.0 --attention-dropout 0.0)
ADAM=(--optimizer adam --adam-betas "(0.9,0.98)" --adam-eps 1e-6 --weight-decay 0.01 --clip-norm 1.0
    --lr-scheduler polynomial_decay --cpu --no-epoch-checkpoints --log-interval 50)
SEQ2SEQ=(--user-dir fairseq_pmlm --task pmlm_seq2seq)
FINETUNE=(--criterion pmlm_seq2seq "${MODEL[@]}" --cut-source head --cut-target head
    --max-source-positions 64 --max-target-positions 48 --max-tokens 4000
    --label-smoothing 0.0 --leave-unmasked-prob 0.0 --random-token-prob 0.0 --lr 3e-3 --warmup-updates 100 --total-num-update "$FINETUNE_UPDATES" --max-update "$FINETUNE_UPDATES")

# The same fine-tuning without pre-training need not wait for it: each has half of the cores.
threads=${OMP_NUM_THREADS-}
export OMP_NUM_THREADS=$((($(nproc) + 1) / 2))
set -m # a process group of its own, so that it can be stopped
(
    step scratch "At the same time: fine-tuning without pre-training" "$OUT/scratch" \
        fairseq_train "$OUT/logs/scratch.log" "$OUT/data/pairs" "${SEQ2SEQ[@]}" "${FINETUNE[@]}" "${ADAM[@]}" \
        --save-dir "$OUT/scratch"
) >"$OUT/logs/scratch.out" 2>&1 &
scratch=$!
set +m
trap 'kill -- -$scratch 2>/dev/null || true' EXIT
step pretrain "Pre-training: one pass for two objectives" "$OUT/pretrain" \
    fairseq_train "$OUT/logs/pretrain.log" "$OUT/data/text" --user-dir fairseq_pmlm --task pmlm --criterion pmlm \
    "${MODEL[@]}" --tokens-per-sample 128 --sample-break-mode complete_doc --max-tokens 2000 \
    "${ADAM[@]}" --lr 2e-3 --warmup-updates 200 --total-num-update "$PRETRAIN_UPDATES" --max-update "$PRETRAIN_UPDATES" \
    --save-interval-updates 500 --keep-interval-updates 1 --save-dir "$OUT/pretrain"
wait "$scratch" || { cat "$OUT/logs/scratch.out" >&2; exit 1; }
trap - EXIT
if [ -n "$threads" ]; then OMP_NUM_THREADS=$threads; else unset OMP_NUM_THREADS; fi
cat "$OUT/logs/scratch.out"
step bysteps "Pre-training losses by step of the factorization order" "$OUT/loss_by_step.json" \
    pmlm loss-by-step "$OUT/data/text" --path "$OUT/pretrain/checkpoint_last.pt" --save-json "$OUT/loss_by_step.json"
step finetune "Fine-tuning the pre-trained model" "$OUT/finetune" \
    fairseq_train "$OUT/logs/finetune.log" "$OUT/data/pairs" "${SEQ2SEQ[@]}" "${FINETUNE[@]}" "${ADAM[@]}" \
    --finetune-from-model "$OUT/pretrain/checkpoint_last.pt" --save-dir "$OUT/finetune"
for model in finetune scratch; do
    step "generate-$model" "Generation, $model" "$OUT/$model.generate.txt" \
        generate "$OUT/$model.generate.txt" "$OUT/data/pairs" "${SEQ2SEQ[@]}" --path "$OUT/$model/checkpoint_last.pt" \
        --gen-subset test --beam 4 --max-len-b 30 --lenpen 3 --no-repeat-ngram-size 2 --batch-size 64 --cpu
done
step baselines "What needs no model" "$OUT/baselines" \
    python scripts/demo/baselines.py --train "$OUT/corpus/pairs.train.jsonl" --test "$OUT/corpus/pairs.test.jsonl" \
    --destdir "$OUT/baselines"
step report "Scores, pictures, examples" "$OUT/scores.json" python scripts/demo/demo_report.py "$OUT"
cat "$OUT/report.txt"
echo
echo "Done in $((SECONDS / 60)) min $((SECONDS % 60)) s. Everything is in $OUT/: report.txt, scores.json, losses.png, mask.png,"
echo "checkpoints in pretrain/ and finetune/, hypotheses in finetune.generate.txt and *.hyp.txt."
