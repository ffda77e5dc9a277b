"""What every family that is shown prompts has in common: SAM and its successors differ in their networks alone.

`options` imports no torch, so that families declare themselves with it; `segmenter.Promptable` is the torch side.
"""
