"""The command line: what tools/*.py and the installed command `detframe` call. Arguments are read before torch."""
