"""Malformed inputs of our own making, for every reader: each is read right, repaired with a word, or refused.

`mutations` makes them, `contract` judges what a reader does with them, and each `test_<family>.py` has the inputs
of one kind of reader. What a case does can be seen by hand: `python -m tests.malformed FAMILY [CASE]`.
"""
