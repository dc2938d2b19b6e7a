"""Processes that train together, and what each of them finds: ranks, devices, cores, signals. It knows no config.

Nothing is imported here: `launching` and `stopping`, which a process that only starts others needs, work without torch.
"""
