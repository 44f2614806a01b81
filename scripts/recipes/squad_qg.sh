#!/usr/bin/env bash
# SQuAD question generation: an answer and its passage to a question.
#
# Settings of the UniLMv2 paper (table 10), published with them (base size): BLEU-4/METEOR/ROUGE-L 24.43/26.34/51.97 on
# Du's split and 26.29/27.16/53.22 on Zhao's, which swaps dev and test.
#
# DATA holds SQuAD's JSON as train.json, dev.json and test.json (a split of one's choice), or train-v1.1.json and
# dev-v1.1.json (then dev is the test set, too), or the same of v2.0, whose questions without an answer are left out.
set -euo pipefail
FORMATS=(
    "train.json dev.json test.json --format squad"
    "train-v1.1.json dev-v1.1.json dev-v1.1.json --format squad"
    "train-v2.0.json dev-v2.0.json dev-v2.0.json --format squad"
)
LR=2e-5 BATCH=48 EPOCHS=16 WARMUP=0.1 SENTENCES=12
MAX_SOURCE=464 MAX_TARGET=48 TARGET_MASK=0.0 SOURCE_MASK=0.0
BEAM=8 LENPEN=1.3 MIN_LEN=1 MAX_LEN=48 NGRAM=3 NGRAM_IGNORE="."
PRESET=squad-qg EXTRAS=meteor
source "$(dirname "${BASH_SOURCE[0]}")/recipe.sh"
