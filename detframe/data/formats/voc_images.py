"""The image of an XML file: the one of its own name, or else the one that it names."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from detframe.data.findings import NOTE, Findings, Kind
from detframe.data.formats.locate import OTHER_SPELLING, ImageFinder

SAME_STEM = Kind(
    "image has the name of another one but for its suffix, and was taken in its place",
    "images have the names of others but for their suffixes, and were taken in their place",
    code="image-of-two-suffixes",
)
OTHER_FILENAME = Kind(
    "XML file names in <filename> another image than that of its own name, which was taken",
    "XML files name in <filename> other images than those of their own names, which were taken",
    code="other-filename",
    severity=NOTE,
)
BY_FILENAME = Kind(
    "XML file has no image of its own name, and that of its <filename> was taken",
    "XML files have no images of their own names, and those of their <filename> were taken",
    code="image-by-filename",
    severity=NOTE,
)


class VocImages:
    """Finds the images of XML files in and below a folder."""

    def __init__(self, folder: Path, findings: Findings) -> None:
        self.finder, self.findings = ImageFinder(folder, findings), findings

    def of(self, key: str, named: str) -> Path | None:
        """The image of an XML file.

        Args:
            key: the path of the XML file without suffix, relative to the annotations, with slashes.
            named: what it calls its image.
        """
        own = self._own(key, PurePosixPath(named.replace("\\", "/")).name)
        if own is not None:
            if named and PurePosixPath(named.replace("\\", "/")).stem != PurePosixPath(key).name:
                self.findings.add(OTHER_FILENAME, f"{key}.xml: {named}")
            return own
        found = self.finder.find(named)
        if found is not None:
            self.findings.add(BY_FILENAME, f"{found.name} of {key}.xml")
        return found

    def _own(self, key: str, named: str) -> Path | None:
        """The image of the XML file's own name; of several that differ in their suffix, the one that it names."""
        matches = self.finder.matches(key)
        if len(matches) > 1:
            matches = [path for path in matches if path.name == named] or _of_one_folder(matches)
            # of what is not clear by now, the last: as it has always been, and with a word
            if len(matches) > 1:
                self.findings.add(SAME_STEM, f"{matches[-1].name} for {matches[-2].name}")
                matches = matches[-1:]
        if len(matches) != 1:
            return None
        if not matches[0].name.startswith(PurePosixPath(key).name):
            self.findings.add(OTHER_SPELLING, f"{matches[0].name} for {key}")
        return matches[0]


def _of_one_folder(paths: list[Path]) -> list[Path]:
    """Paths that lie in one folder; none, where they do not: which of them is meant cannot be known."""
    return paths if len({path.parent for path in paths}) == 1 else []
