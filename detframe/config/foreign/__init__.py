"""The configs of other programs in detframe's keys: a table of rules for each program."""
