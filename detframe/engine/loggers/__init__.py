"""Where the numbers of a run go beside metrics.jsonl (LOGGERS).

Each logger is a process of its own that reads OUTPUT_DIR. Whatever fails or hangs in one of them stays there: the
training neither waits for it nor ends by it.
"""

FOLDER = "loggers"  # in OUTPUT_DIR: what each has sent, and what its library printed
CSV_FILE = "metrics.csv"
