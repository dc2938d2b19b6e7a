"""What a run's log says about how often its images come: by their classes, their data sets and their being empty."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from detframe.config import ConfigNode
from detframe.data import Records, TiledRecords, repeat_factors
from detframe.data.repeats import image_repeats, images_with_class, sampler_name, tile_kinds

_RAREST = 10  # classes that the log names
_MANY = 20  # times an epoch that an image comes, from which on a model overfits it


def describe_sampling(cfg: ConfigNode, records: Records) -> str:
    """A line for each key that makes images come more or less often, with what comes of it; "" where all come once."""
    factors = image_repeats(cfg, records)
    if factors is None:
        return ""
    return "".join(f"{line}\n" for line in _lines(cfg, records, factors))


def _lines(cfg: ConfigNode, records: Records, factors: np.ndarray) -> Iterator[str]:
    name, length = sampler_name(cfg), float(factors.sum())
    if name == "repeat_factor":
        yield _repeated(cfg, records, round(length))
    if name == "class_balanced":
        yield (
            f"DATALOADER.SAMPLER class_balanced: images come {factors.min():.3g} to {factors.max():.3g} times in an "
            f"epoch of {round(length)}; images of an epoch with the rarest classes: {_by_class(records, factors)}"
        )
    if cfg.DATASETS.TRAIN_WEIGHTS:
        drawn = np.bincount(records.part_of, factors, minlength=len(records.part_names))
        shares = [f"{part} {n / length:.1%}" for part, n in zip(records.part_names, drawn.tolist(), strict=True)]
        yield f"DATASETS.TRAIN_WEIGHTS: of the {round(length)} images of an epoch, {', '.join(shares)}"
    if cfg.DATALOADER.EMPTY_SHARE >= 0:
        empty = records.num_objects == 0
        yield (
            f"DATALOADER.EMPTY_SHARE {cfg.DATALOADER.EMPTY_SHARE:g}: {round(float(factors[empty].sum()))} of the "
            f"{round(length)} images of an epoch are without objects; there are {int(empty.sum())} of them in the data"
        )


def _repeated(cfg: ConfigNode, records: Records, length: int) -> str:
    data, names = cfg.DATALOADER, records.metadata.class_names
    if isinstance(records, TiledRecords):
        records = records.select(tile_kinds(records)[0])
    of_class, of_image = repeat_factors(records, data.REPEAT_THRESHOLD, data.REPEAT_SQRT)
    most = [i for i in np.argsort(-of_class, kind="stable")[:_RAREST].tolist() if of_class[i] > 1]
    listed = ", ".join(f"{names[i]} {of_class[i]:.2f} times" for i in most)
    after = ["DATALOADER.EMPTY_SHARE"] if data.EMPTY_SHARE >= 0 else []
    after += ["DATASETS.TRAIN_WEIGHTS"] if cfg.DATASETS.TRAIN_WEIGHTS else []
    outcome = f", before {' and '.join(after)}" if after else f", so that an epoch has {length} images"
    return (
        f"DATALOADER.REPEAT_THRESHOLD {data.REPEAT_THRESHOLD:g}: {int((of_image > 1).sum())} of the images come more "
        f"often{outcome}"
        f"{f'; those with the rarest classes: {listed}' if listed else ''}"
    )


def _by_class(records: Records, factors: np.ndarray) -> str:
    there, drawn = images_with_class(records), images_with_class(records, factors)
    rarest = [i for i in np.argsort(there, kind="stable").tolist() if there[i] > 0][:_RAREST]
    return ", ".join(f"{records.metadata.class_names[i]} {drawn[i]:.0f} (there are {there[i]:.0f})" for i in rarest)


def sampling_warnings(cfg: ConfigNode, sets: Mapping[str, Records]) -> list[str]:
    """What of a sampler does nothing, or too much, in some training data, by name."""
    return [line for name, records in sets.items() for line in _warnings(cfg, name, records)]


def _warnings(cfg: ConfigNode, name: str, records: Records) -> Iterator[str]:
    sampler = sampler_name(cfg)
    if sampler != "uniform":
        classes = np.count_nonzero(images_with_class(records))
        if classes < 2:
            only = "objects of one class alone" if classes else "no objects"
            yield (
                f"DATALOADER.SAMPLER {sampler} balances classes, and {name} has {only}: the images with objects come "
                "equally often, as with uniform"
            )
    factors = image_repeats(cfg, records)
    if factors is not None and factors.max() > _MANY:
        most, often = int(factors.argmax()), factors.max()
        count = int((factors > _MANY).sum())
        yield (
            f"{count} of the images of {name} come more than {_MANY} times an epoch, {records.file_name(most)} "
            f"{often:.0f} times: a model overfits these. DATALOADER.SAMPLER repeat_factor is milder than "
            "class_balanced; shares that few images fill can be smaller"
        )
