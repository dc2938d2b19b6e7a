"""The screen: all that is odd about a data set at once, before any time is spent on it. No model is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from detframe.arrays.pixels import COLOURS, PixelForm
from detframe.data.findings import ERROR, SEVERITIES, WARNING, Finding
from detframe.data.listing import Listing
from detframe.data.records import Records
from detframe.data.screen.boxes import check_boxes
from detframe.data.screen.classes import check_classes, check_counts, class_counts
from detframe.data.screen.files import check_files, check_not_used, check_sample
from detframe.data.screen.pictures import Picture, Progress, look_at, short_names
from detframe.data.screen.repeats import check_repeats
from detframe.data.screen.split import Split

__all__ = ["Screened", "Split", "class_counts", "examine", "screen"]

MOSTLY = 0.5  # of the annotated images: a training without so many is not the one that was meant


@dataclass(frozen=True)
class Screened:
    """A data set that was looked at."""

    splits: tuple[Split, ...]
    findings: tuple[Finding, ...]  # errors first, then warnings, then notes

    def of(self, severity: str) -> list[Finding]:
        """The findings of one severity."""
        return [finding for finding in self.findings if finding.severity == severity]

    def with_findings(self, findings: Sequence[Finding]) -> Screened:
        """The same with more findings sorted in."""
        return replace(self, findings=_in_order([*self.findings, *findings]))

    @property
    def pictures(self) -> Mapping[str, Picture]:
        """Every image file by its path."""
        return self.splits[0].pictures if self.splits else {}


def screen(sets: Mapping[str, Records], listing: Listing | None = None, decode: bool = True) -> list[Finding]:
    """All findings of a data set, the gravest first.

    Args:
        sets: the records of each split, by its name. "train" is what a model learns from.
        listing: the files below the data set's folder, to find images that no split has.
        decode: read the pixels of every image, to find those that cannot be read and those that look the same; else
            only the headers.
    """
    return list(examine(sets, listing, decode).findings)


def examine(
    sets: Mapping[str, Records],
    listing: Listing | None = None,
    decode: bool = True,
    findings: Sequence[Finding] = (),
    skip: bool = True,
    progress: Progress | None = None,
    tiles: bool = False,
    form: PixelForm = COLOURS,
) -> Screened:
    """As `screen`, with all that was looked at.

    Args:
        findings: what is known already, to be sorted in.
        skip: images that cannot be used are left out, as with DATALOADER.ON_ERROR skip; else each stops a training.
        progress: called now and then with the number of images done, and of all.
        tiles: the images are cut into tiles, so that a TIFF may have more pixels than an image.
        form: what the training reads images as.
    """
    paths = {name: [records.file_name(i) for i in range(len(records))] for name, records in sets.items()}
    every = [path for some in paths.values() for path in some]
    names, pictures = short_names(every), look_at(every, decode, progress, tiles, form)
    splits = tuple(Split(name, records, paths[name], names, pictures) for name, records in sets.items())
    out = [*findings]
    for split in splits:
        out += [
            *_of_the_reader(split, skip),
            *check_counts(split),
            *check_files(split, skip, form),
            *check_boxes(split),
        ]
    if splits:
        out += [*check_classes(splits), *check_repeats(splits), *check_sample(splits, decode)]
        out += check_not_used(splits, listing) if listing is not None else []
    return Screened(splits, _in_order(out))


def _in_order(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """The gravest first, and those of one kind beside one another."""
    kinds = list(dict.fromkeys(finding.code for finding in findings))
    return tuple(sorted(findings, key=lambda f: (-SEVERITIES.index(f.severity), kinds.index(f.code))))


def _of_the_reader(split: Split, skip: bool) -> list[Finding]:
    """What the reader of the annotations repaired and left out; missing images spoil a training if they are many."""
    out = []
    for finding in split.records.findings:
        severity = finding.severity
        if finding.code == "missing-image":
            mostly = finding.count > MOSTLY * (len(split.records) + finding.count)
            severity = ERROR if mostly or not skip else WARNING
        out.append(replace(finding, where=split.name, severity=severity))
    return out
