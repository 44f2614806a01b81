# Sourced by sst2.sh and fairytaleqa_squad.sh, which compare a pre-trained model, the same architecture from scratch, and an
# imported model: where each is, and what all their trainings share.
#
# Set before: OUT, NAME and history, as for steps.sh.
declare -A CHECKPOINT VOCAB DIGEST

# systems PRETRAINED IMPORTED: each a checkpoint beside its dict.txt and tokenizer, or CHECKPOINT:DIR. Goes to the top of the
# repository and sets up.
systems() {
    local name
    CHECKPOINT[pretrained]=$1 CHECKPOINT[imported]=$2
    for name in pretrained imported; do
        VOCAB[$name]=$(dirname "${CHECKPOINT[$name]}")
        [[ ${CHECKPOINT[$name]} != *:* ]] || VOCAB[$name]=${CHECKPOINT[$name]#*:}
        VOCAB[$name]=$(realpath "${VOCAB[$name]}")
        CHECKPOINT[$name]=$(realpath "${CHECKPOINT[$name]%%:*}")
        DIGEST[$name]=$(sha256sum "${CHECKPOINT[$name]}" | cut -c1-16) # for history: another checkpoint is another step
    done
    CHECKPOINT[scratch]=${CHECKPOINT[pretrained]} VOCAB[scratch]=${VOCAB[pretrained]} DIGEST[scratch]=${DIGEST[pretrained]}
    cd "$(dirname "${BASH_SOURCE[0]}")/.."
    set --  # or setup.sh would take these arguments for extras
    # shellcheck disable=SC1091
    source scripts/setup.sh
    # shellcheck disable=SC1091
    source scripts/steps.sh
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
    machine
}

# train MODEL SEED SAVE_DIR DATA OPTION...: fine-tune MODEL (pretrained, scratch or imported).
train() {
    local model=$1 seed=$2 save=$3 data=$4 start=()
    shift 4
    [ "$model" = scratch ] || start=(--finetune-from-model "${CHECKPOINT[$model]}")
    fairseq_train "$OUT/logs/$model.$seed.log" "$data" --user-dir fairseq_pmlm --arch pmlm \
        --arch-from "${CHECKPOINT[$model]}" "${start[@]}" --optimizer adam --adam-betas "(0.9,0.98)" --weight-decay 0.01 \
        --clip-norm 1.0 --lr-scheduler polynomial_decay --required-batch-size-multiple 1 --num-workers 0 \
        --no-epoch-checkpoints --seed "$seed" "${MACHINE[@]}" --save-dir "$save" "$@"
}
