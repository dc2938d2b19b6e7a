"""Experiments behind docs/reliability.md: whole runs that are killed, stopped, starved and damaged.

python -m tests.reliability            all of them, some minutes on two cores; a table on the standard output
python -m tests.reliability kills disk --times 20
python -m tests.reliability --write    also into docs/reliability.md
"""
