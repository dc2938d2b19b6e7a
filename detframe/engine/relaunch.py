"""Whether a run goes on because its launcher started its processes anew: what OUTPUT_DIR knows of who trained there.

torchrun starts new processes when one of them fails and when a host is lost or comes back. It is the same launch if one
of the launchers of now, a process on a host, is among those that have worked for the run before. A new launch has new
launchers, whatever its id.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from detframe.config import ConfigNode
from detframe.engine.output_dir import LAUNCH_FILE
from detframe.files import write_text
from detframe.parallel.collectives import on_rank_zero, world_size
from detframe.parallel.elastic import Attempt, host_of
from detframe.parallel.joining import attempt_in_work

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Launch:
    """What the file says.

    Attributes:
        launchers: of all attempts so far.
        latest: the launchers of the latest attempt, by rank.
        workers: the processes of the latest attempt, by rank.
        restarts: how often processes were started anew.
        failures: torchrun's own count, which knows nothing of hosts that come and go.
        share: images of a rank in one pass, in the attempt that began the run.
    """

    launchers: tuple[str, ...]
    latest: tuple[str, ...]
    workers: tuple[str, ...]
    restarts: int
    failures: int
    share: int

    @classmethod
    def first(cls, attempt: Attempt, share: int) -> Launch:
        """Of a run that begins."""
        known = tuple(sorted(set(attempt.launchers) - {""}))
        return cls(known, attempt.launchers, attempt.workers, 0, attempt.failures, share)

    def followed_by(self, attempt: Attempt) -> Launch:
        """With another attempt of the same launch."""
        known = tuple(sorted({*self.launchers, *attempt.launchers} - {""}))
        return replace(
            self,
            launchers=known,
            latest=attempt.launchers,
            workers=attempt.workers,
            restarts=self.restarts + 1,
            failures=attempt.failures,
        )

    def why(self, attempt: Attempt) -> str:
        """For the log: the restart, and what has led to it."""
        lost = [host_of(name) for name in dict.fromkeys(self.latest) if name not in attempt.launchers]
        new = [host_of(name) for name in dict.fromkeys(attempt.launchers) if name not in self.latest]
        reasons = [f"host {host} is gone" for host in lost] + [f"host {host} has come" for host in new]
        if attempt.failures > self.failures:
            reasons.append("a process failed or was lost")
        return (
            f"restart {self.restarts + 1} of this run ({'; '.join(reasons) or 'the hosts were counted anew'}): "
            f"{len(self.workers)} processes -> {len(attempt.workers)}, on {', '.join(attempt.hosts)}; restarts for "
            f"failures: {attempt.failures} of {attempt.allowed}"
        )


@dataclass(frozen=True)
class Standing:
    """What a start knows of attempts: that of now, and what was before where it goes on with a run."""

    attempt: Attempt | None
    earlier: Launch | None

    @property
    def goes_on(self) -> bool:
        """Whether this is a restart of the run in OUTPUT_DIR."""
        return self.earlier is not None

    def tell(self) -> None:
        """Into the log: that this is a restart, and why."""
        if self.attempt is not None and self.earlier is not None:
            logger.warning("%s", self.earlier.why(self.attempt))

    def fitted(self, cfg: ConfigNode) -> ConfigNode:
        """The config, with more ACCUMULATE_STEPS where fewer ranks than at first share the batch.

        No rank has more images at once than when the run began, which may be all that its memory holds.
        """
        batch, steps, ranks = cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.ACCUMULATE_STEPS, world_size()
        if self.earlier is None or batch % (ranks * steps) or batch <= self.earlier.share * ranks * steps:
            return cfg
        share = batch // ranks
        needed = next(n for n in range(steps, share + 1) if share % n == 0 and share // n <= self.earlier.share)
        logger.warning(
            "%d ranks share a batch of %d: SOLVER.ACCUMULATE_STEPS %d -> %d, so that none has more than %d images "
            "at once, as when the run began",
            *(ranks, batch, steps, needed, self.earlier.share),
        )
        return cfg.changed([("SOLVER.ACCUMULATE_STEPS", needed)])

    def write(self, folder: Path, cfg: ConfigNode) -> None:
        """Into OUTPUT_DIR, which is this run's own, for attempts to come."""
        if self.attempt is None:
            (folder / LAUNCH_FILE).unlink(missing_ok=True)
            return
        share = cfg.SOLVER.IMS_PER_BATCH // (world_size() * cfg.SOLVER.ACCUMULATE_STEPS)
        launch = Launch.first(self.attempt, share) if self.earlier is None else self.earlier.followed_by(self.attempt)
        write_text(folder / LAUNCH_FILE, json.dumps(asdict(launch)))


def standing(folder: Path) -> Standing:
    """Whether the run in the folder goes on, for its launcher has started its processes anew. On every rank."""
    attempt = attempt_in_work()
    if attempt is None:
        return Standing(None, None)
    return Standing(attempt, on_rank_zero(lambda: earlier_attempt(folder, attempt), "to look at OUTPUT_DIR"))


def earlier_attempt(folder: Path, attempt: Attempt | None) -> Launch | None:
    """What was before, where this attempt goes on with the run in the folder; None where it begins a run.

    Processes that have trained here already and do so again want a new run.
    """
    found = _read(folder / LAUNCH_FILE)
    if attempt is None or found is None or set(attempt.workers) & set(found.workers):
        return None
    return found if set(attempt.launchers) & set(found.launchers) else None


def _read(path: Path) -> Launch | None:
    """None where there is no such file; one that says something else is none."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        launchers, latest, workers = (tuple(map(str, fields[key])) for key in ("launchers", "latest", "workers"))
        restarts, failures, share = (int(fields[key]) for key in ("restarts", "failures", "share"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("%s cannot be read, so this is taken for a new run: %s", path, error)
        return None
    return Launch(launchers, latest, workers, restarts, failures, share)
