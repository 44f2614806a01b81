#!/usr/bin/env bash
# SciTLDR: the abstract of a paper to one sentence; several references, the best of which counts.
#
# The UniLMv2 paper has no SciTLDR; the settings are those for XSum.
#
# DATA holds train.jsonl, dev.jsonl and test.jsonl with the keys source and target (lists), as published; or
# train.jsonl, valid.jsonl and, if there is one, test.jsonl with the keys src and tgt.
set -euo pipefail
FORMATS=(
    "train.jsonl dev.jsonl test.jsonl --source-keys source --target-key target"
    "train.jsonl valid.jsonl test.jsonl"
    "train.jsonl valid.jsonl valid.jsonl"
)
LR=7e-5 BATCH=64 EPOCHS=14 WARMUP=0.02 SENTENCES=16
MAX_SOURCE=464 MAX_TARGET=48 TARGET_MASK=0.4 SOURCE_MASK=0.0
BEAM=5 LENPEN=0.6 MIN_LEN=1 MAX_LEN=48 NGRAM=3 NGRAM_IGNORE="."
PRESET=xsum
source "$(dirname "${BASH_SOURCE[0]}")/recipe.sh"
