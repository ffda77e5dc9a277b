"""Hostile files for every reader: whatever they hold, a reader gives a result or a `SegdistError`.

Each case is a valid example with some of its bytes, tokens or values changed. It is read in a child process that may
take `child.MOST_BYTES` more memory and `child.MOST_SECONDS` of the processor. Half an hour over all targets:
`python -m tests.fuzz --minutes 30`. What is found lies in `corpus/TARGET/NAME/` and is read again by every test run.
"""
