#!/usr/bin/env bash
# FairytaleQA question generation: an answer, in any words, and its passage to a question.
#
# The UniLMv2 paper has no FairytaleQA; the settings are those for SQuAD.
#
# DATA holds train.jsonl, valid.jsonl and, if there is one, test.jsonl with the keys passage, answer and question.
set -euo pipefail
KEYS="--source-keys answer passage --target-key question"
FORMATS=(
    "train.jsonl valid.jsonl test.jsonl $KEYS"
    "train.jsonl valid.jsonl valid.jsonl $KEYS"
)
LR=2e-5 BATCH=48 EPOCHS=16 WARMUP=0.1 SENTENCES=12
MAX_SOURCE=464 MAX_TARGET=48 TARGET_MASK=0.0 SOURCE_MASK=0.0
BEAM=8 LENPEN=1.3 MIN_LEN=1 MAX_LEN=48 NGRAM=3 NGRAM_IGNORE="."
PRESET=squad-qg EXTRAS=meteor
source "$(dirname "${BASH_SOURCE[0]}")/recipe.sh"
