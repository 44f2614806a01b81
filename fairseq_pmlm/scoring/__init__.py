"""Scores of generated text: ROUGE, BLEU, chrF, METEOR, SQuAD, statistics; intervals, comparisons, published presets.

A score here is always the number that rouge-score, sacrebleu or METEOR itself gives for the same texts. What is added
is what a table in a paper needs: the interval, a test between two systems, one line that says how the number was made,
the post-processing that published numbers had, tokenizers for texts that are not English, and a stop where
rouge-score's own tokenizer would throw most of the text away. Scores are on a scale of 0..100.
"""
