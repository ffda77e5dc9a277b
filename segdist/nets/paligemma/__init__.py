"""The language that PaliGemma (Beyer et al. 2024) answers in: boxes, masks and class names as tokens of text.

`locations`, `answers` and `prompts` need no torch; `codec` turns masks into sixteen tokens each and back.
The rules are those of google-research/big_vision (`pp/proj/paligemma`, `evaluators/proj/paligemma`).
"""
