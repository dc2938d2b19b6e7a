"""From a folder and a machine to a config: what is chosen, and why."""
