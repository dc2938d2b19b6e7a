"""Do boxes have the form x, y, width, height, or do they look like corners?"""

from __future__ import annotations

from detframe.data.findings import ERROR, Findings
from detframe.data.packing import OVERHANG

# Of all boxes, the share that must fit as corners, and that must reach beyond the image as they are
_FIT, _BEYOND = 0.9, 0.1


class BoxForm:
    """Counts boxes that reach beyond their image as x, y, width, height, and fit as x1, y1, x2, y2."""

    def __init__(self) -> None:
        self.boxes = self.beyond = self.fit = 0

    def add(self, box: tuple[float, float, float, float], size_hw: tuple[int, int]) -> None:
        """Count one box as it stands in the file."""
        x, y, third, fourth = box
        height, width = size_hw
        self.boxes += 1
        if x < third <= width + OVERHANG and y < fourth <= height + OVERHANG:
            self.fit += 1
            self.beyond += x + third > width + OVERHANG or y + fourth > height + OVERHANG

    @property
    def looks_like_corners(self) -> bool:
        """Whether most boxes do: they fit into their images in no other way."""
        return self.beyond > _BEYOND * self.boxes and self.fit >= _FIT * self.boxes

    def report(self, findings: Findings) -> None:
        """Say so where most boxes look like corners."""
        if self.looks_like_corners:
            findings.say(
                "boxes-as-corners",
                f"{self.beyond} of {self.boxes} boxes reach beyond their image as x, y, width, height, and {self.fit} "
                f"fit as x1, y1, x2, y2. They look like corners, and 'bbox' is x, y, width, height: write x2 - x1 and "
                f"y2 - y1 in the place of x2 and y2",
                self.beyond,
                ERROR,
            )
