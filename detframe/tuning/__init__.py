"""Studies: many trainings of one config with other values of some keys, to find the best ones. Optuna chooses them."""

from detframe.lazy import lazily

__getattr__ = lazily(__name__, {"running": "StudyResult tune", "space": "read_space"})
