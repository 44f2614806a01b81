#!/usr/bin/env bash
# Gigaword: the first sentence of a news article to its headline.
#
# The UniLMv2 paper has no Gigaword; these are the settings that the authors published for its predecessor, UniLM, with
# 10 of its 30 epochs, after which they say one may stop.
#
# DATA holds train.article.txt, train.title.txt, valid.article.filter.txt, valid.title.filter.txt, and the test set as
# input.txt and task1_ref0.txt; or train.src.txt, train.tgt.txt, dev.src.txt, ..., test.tgt.txt.
set -euo pipefail
FORMATS=(
    "train.article.txt,train.title.txt valid.article.filter.txt,valid.title.filter.txt input.txt,task1_ref0.txt --skip-empty"
    "train.src.txt,train.tgt.txt dev.src.txt,dev.tgt.txt test.src.txt,test.tgt.txt --skip-empty"
)
LR=3e-5 BATCH=128 EPOCHS=10 WARMUP=0.1 SENTENCES=32
MAX_SOURCE=128 MAX_TARGET=64 TARGET_MASK=0.0 SOURCE_MASK=0.0
BEAM=5 LENPEN=0.6 MIN_LEN=1 MAX_LEN=32 NGRAM=3 NGRAM_IGNORE="."
PRESET=gigaword
source "$(dirname "${BASH_SOURCE[0]}")/recipe.sh"
