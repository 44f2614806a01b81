#!/usr/bin/env bash
# XSum: a news article to one sentence.
#
# Settings of the UniLMv2 paper (table 10), published with them (base size, with relative positions / without):
# ROUGE-1/2/L 44.00/21.11/36.08 / 43.69/20.71/35.73.
#
# DATA holds train.source, train.target, val.source, ... (text), or train.jsonl, validation.jsonl and test.jsonl with
# the keys document and summary.
set -euo pipefail
FORMATS=(
    "train.source,train.target val.source,val.target test.source,test.target"
    "train.jsonl validation.jsonl test.jsonl --source-keys document --target-key summary"
)
LR=7e-5 BATCH=64 EPOCHS=14 WARMUP=0.02 SENTENCES=8
MAX_SOURCE=720 MAX_TARGET=48 TARGET_MASK=0.4 SOURCE_MASK=0.0
BEAM=5 LENPEN=0.6 MIN_LEN=1 MAX_LEN=48 NGRAM=3 NGRAM_IGNORE="."
PRESET=xsum
source "$(dirname "${BASH_SOURCE[0]}")/recipe.sh"
