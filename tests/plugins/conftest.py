"""The tests of the distribution `outside` run where it is installed: see `test_outside.py`."""

collect_ignore = ["outside"]
