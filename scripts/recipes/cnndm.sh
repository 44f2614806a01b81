#!/usr/bin/env bash
# CNN/DailyMail: a news article to a few sentences.
#
# Settings of the UniLMv2 paper (table 10), published with them (base size, with relative positions / without):
# ROUGE-1/2/L 43.16/20.42/40.14 / 43.45/20.71/40.49. The published ROUGE-L is that over sentences, rougeLsum here.
#
# DATA holds train.source, train.target, val.source, ... (text), or train.jsonl, validation.jsonl and test.jsonl with
# the keys article and highlights.
set -euo pipefail
FORMATS=(
    "train.source,train.target val.source,val.target test.source,test.target"
    "train.jsonl validation.jsonl test.jsonl --source-keys article --target-key highlights"
)
LR=7e-5 BATCH=64 EPOCHS=14 WARMUP=0.02 SENTENCES=8
MAX_SOURCE=608 MAX_TARGET=160 TARGET_MASK=0.7 SOURCE_MASK=0.0
BEAM=5 LENPEN=0.7 MIN_LEN=48 MAX_LEN=160 NGRAM=3 NGRAM_IGNORE="."
PRESET=cnndm
source "$(dirname "${BASH_SOURCE[0]}")/recipe.sh"
