"""One data set of what a path holds: taken, with a word about the others; or an error that lists them all."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from detframe.config.paths import with_docs
from detframe.data.candidates import (
    READ_AT_MOST,
    Candidate,
    Cluster,
    clusters,
    find_candidates,
    read_content,
    recognisers,
)
from detframe.data.findings import NOTE, WARNING, Finding, sentence
from detframe.data.unrecognised import not_recognised
from detframe.errors import InvalidValueError, UnknownNameError, listed
from detframe.registry import DATASET_FORMATS, nearest
from detframe.texts import counted

_LISTED, _EXPLAINED = 20, 5  # data sets of a message; of so many it says by what they were recognised
MUCH_LARGER = 5  # one data set with so many times the labelled images of all others together is the one that is meant


def choose(path: Path, shown_path: str, format_name: str = "", needs: str = "") -> tuple[Candidate, list[Finding]]:
    """The data set that a path means, and what there is to say about it.

    Args:
        path: an existing file or folder.
        shown_path: the path as the user wrote it, for commands to copy.
        format_name: take what this format recognises, where several do.
        needs: as of `detframe.data.folder.read_folder`.

    Raises:
        ValueError: no format recognises it, or it holds several data sets, or the only one cannot be read.
        KeyError: there is no such format.
    """
    _check_format(format_name)
    found = find_candidates(path, format_name, needs)
    if not found:
        raise not_recognised(path, shown_path, format_name)
    if len(found) == 1:
        return found[0], _notes(found[0])
    read = [read_content(candidate) for candidate in found[:READ_AT_MOST]]
    able = [candidate for candidate in read if candidate.content.has(needs)]
    sets = clusters(able) or clusters(read)
    broken = [candidate for candidate in read if not candidate.content.pictures]
    if not sets:
        return _best_broken(broken, path, shown_path)
    sizes = [len(cluster.best.content.labelled) for cluster in sets]  # images without objects teach nothing alone
    sizes = sizes if any(sizes) else [len(cluster.best.content.pictures) for cluster in sets]
    main = sets[sizes.index(max(sizes))]
    rest = [cluster for cluster in sets if cluster is not main]
    if rest and max(sizes) < MUCH_LARGER * (sum(sizes) - max(sizes)):
        raise _several(sets, path, shown_path)
    left_out = [_left_out(cluster, path, shown_path) for cluster in rest]
    return main.best, [*_notes(main.best), *left_out, *_about_others(main, broken, path, shown_path)]


def _left_out(cluster: Cluster, path: Path, shown_path: str) -> Finding:
    """What is said of a data set beside the one that is much larger."""
    best, count = cluster.best, len(cluster.best.content.pictures)
    size = f"{best.format}, {counted(count, 'image')}"
    text = f"{_where(best, path, shown_path)} is a data set of its own ({size}), and is not used"
    remedy = f"to take it: {arguments(best, path, shown_path)}"
    return sentence("smaller-data-set", WARNING, text, count, remedy)


def _check_format(format_name: str) -> None:
    known_names = nearest(format_name, list(recognisers()))
    if format_name and format_name not in DATASET_FORMATS:
        raise UnknownNameError(
            f"no format is called {format_name!r}; {known_names}{'' if known_names.endswith('?') else '.'} "
            f"A module with a format of your own must be named in CUSTOM_IMPORTS to be found"
        )
    if format_name and not recognisers(format_name):
        raise InvalidValueError(
            f"the format {format_name!r} cannot recognise data sets, it needs an entry in a catalog; those that can "
            f"are {', '.join(recognisers())}"
        )


def _notes(candidate: Candidate) -> list[Finding]:
    recognised = candidate.recognised
    text = f"recognised as {recognised.format}: {recognised.reason}"
    notes = [sentence("format", NOTE, text)]
    return notes + [sentence("format-note", WARNING, note) for note in recognised.notes]


def _best_broken(broken: Sequence[Candidate], path: Path, shown_path: str) -> tuple[Candidate, list[Finding]]:
    """Where no candidate has an image that can be read: the only one there is to take, or the error of the first."""
    empty = [candidate for candidate in broken if not candidate.content.problem]
    if empty:
        return empty[0], _notes(empty[0])
    first = broken[0]
    also = "".join(
        f"\n- as {other.format} ({_where(other, path, shown_path)}): {_first_line(other.content.problem)}"
        for other in broken[1:6]
    )
    more = f"\nThe other formats that it could be cannot be read either:{also}" if also else ""
    raise InvalidValueError(
        f"{shown_path} was recognised as {first.format} ({first.recognised.reason}), and cannot be read: "
        f"{first.content.problem}{more}"
    )


def _first_line(text: str) -> str:
    return text.partition("\n")[0]


# -------------------------------------------------------------------------------- the same images in other formats
def _about_others(cluster: Cluster, broken: Sequence[Candidate], path: Path, shown_path: str) -> list[Finding]:
    """What is said of what was not taken: the same images in other formats, and what could not be read."""
    findings = []
    parts = _annotations_of(cluster.best)
    others = [c for c in cluster.others if not (c.format == cluster.best.format and _annotations_of(c) <= parts)]
    if others:
        names = [f"{c.format} ({_where(c, path, '')})" for c in others]
        best = cluster.best
        text = (
            f"the same images, or some of them, are there in other files too: {listed(names, 8)}; {best.format} was "
            f"taken, because {_why(best, others)}"
        )
        remedy = f"to take another one: {arguments(others[0], path, shown_path, cluster)}"
        findings.append(sentence("other-formats", NOTE, text, len(others), remedy))
    for candidate in cluster.leftovers[:5]:
        count = len(candidate.content.pictures)
        text = f"{_where(candidate, path, shown_path)} belongs to no part, and is not used: {counted(count, 'image')}"
        findings.append(sentence("unused-part", WARNING, text, count))
    for candidate in broken[:5]:
        problem = _first_line(candidate.content.problem) or "none of its images exists"
        text = f"{_where(candidate, path, shown_path)} looks like {candidate.format}, and was not taken: {problem}"
        findings.append(sentence("unreadable-format", WARNING, text))
    return findings


def _annotations_of(candidate: Candidate) -> set[Path]:
    return {part.annotations for part in candidate.recognised.parts}


def _why(best: Candidate, others: Sequence[Candidate]) -> str:
    """In which respect the chosen candidate is richer than all others."""
    content = best.content

    def most(value: int, values: Sequence[int]) -> bool:
        return value > max(values)

    theirs = [other.content for other in others]
    if content.has_masks and not any(c.has_masks for c in theirs):
        return "it has masks"
    if len(best.recognised.parts) > max(len(other.recognised.parts) for other in others):
        return "it has splits"
    if most(len(content.pictures), [len(c.pictures) for c in theirs]):
        return f"it has the most images ({len(content.pictures)})"
    if content.missing < min(c.missing for c in theirs):
        return f"it names the fewest images that do not exist ({content.missing})"
    if most(content.objects, [c.objects for c in theirs]):
        return f"it has the most objects ({content.objects})"
    return "of equally rich ones the highest folder and then the alphabet decide"


def _where(candidate: Candidate, path: Path, shown_path: str) -> str:
    """The file or folder of a candidate's annotations, as the user would write it."""
    folder = common_folder([part.annotations for part in candidate.recognised.parts])
    return _below(folder, path, shown_path)


def _below(place: Path, path: Path, shown_path: str) -> str:
    """A place as it is typed: below the path that was given, or absolute."""
    root = path if path.is_dir() else path.parent
    shown_root = Path(shown_path) if path.is_dir() else Path(shown_path).parent
    return str(shown_root / place.relative_to(root)) if place.is_relative_to(root) else str(place)


def common_folder(paths: Sequence[Path]) -> Path:
    """The deepest folder that holds all paths; of one path, that path."""
    return Path(os.path.commonpath(paths))


# -------------------------------------------------------------------------------- several data sets
def arguments(candidate: Candidate, path: Path, shown_path: str, *rivals: Cluster) -> str:
    """The words of a command that take this candidate and none of the rivals."""
    reader = DATASET_FORMATS.get(candidate.format)
    parts = candidate.recognised.parts
    everything = [place for part in parts for place in (part.annotations, part.images)]
    annotations = [part.annotations for part in parts]
    for place in dict.fromkeys((common_folder(everything), common_folder(annotations))):
        answer = reader.recognise(place) if place.is_relative_to(path) else None
        if answer is not None and answer.parts == parts and not _is_shared(place, candidate, rivals):
            return f"--data {quoted(_below(place, path, shown_path))}"
    return f"--data {quoted(_below(candidate.path, path, shown_path))} --format {candidate.format}"


def _is_shared(place: Path, candidate: Candidate, rivals: Sequence[Cluster]) -> bool:
    """Whether annotations of another candidate lie at or below a place too."""
    others = [c for rival in rivals for c in (rival.best, *rival.others) if c is not candidate]
    own = _annotations_of(candidate)
    return any(
        annotations.is_relative_to(place) and annotations not in own
        for other in others
        for annotations in _annotations_of(other)
    )


def quoted(path: str) -> str:
    """A path as a shell takes it for one word; in double quotes, which Windows knows too, where they suffice."""
    if any(letter in path for letter in '"$`\\!'):
        return shlex.quote(path)
    return f'"{path}"' if shlex.quote(path) != path else path


def _several(sets: Sequence[Cluster], path: Path, shown_path: str) -> InvalidValueError:
    """The error that lists several data sets, each with the words that take it."""
    lines = []
    for cluster in sets[:_LISTED]:
        best, content = cluster.best, cluster.best.content
        rivals = [other for other in sets if other is not cluster]
        also = sorted({other.format for other in cluster.others} - {best.format})
        home = common_folder([place for part in best.recognised.parts for place in (part.annotations, part.images)])
        alone = home.is_relative_to(path) and not _is_shared(home, best, rivals)
        words = f"--data {quoted(_below(home, path, shown_path))}" if alone else ""
        lines.append(f"  {words or arguments(best, path, shown_path, *rivals, cluster)}")
        size = f"{counted(len(content.pictures), 'image')}, {counted(content.objects, 'object')}"
        more = f"; also as {', '.join(also)}" if also else ""
        lines.append(f"      {best.format}: {size} of {_classes(content.class_names)}{more}")
        if len(sets) <= _EXPLAINED:
            lines.append(f"      ({best.recognised.reason})")
    more = f"\n  ... and {len(sets) - _LISTED} more" if len(sets) > _LISTED else ""
    return InvalidValueError(
        f"{shown_path} holds {len(sets)} data sets with different images, and none of them has all; choose one:\n"
        + "\n".join(lines)
        + more
        + with_docs("\nTo train on several, list them with the same class names in a catalog (docs/own_data.md).")
    )


def _classes(names: Sequence[str]) -> str:
    if not names:
        return "no class"
    return f"{counted(len(names), 'class', 'classes')} ({listed(names, 5)})"
