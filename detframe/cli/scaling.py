"""How long a training step takes on many GPUs, computed from its measured parts and from what links are said to do.

n GPUs sum gradients of S bytes over links of bandwidth B (bytes/s) and latency a (s) in

    ring:  2 (n - 1) a + 2 (n - 1) / n * S / B   (Patarasuk and Yuan, J. Parallel Distrib. Comput. 69, 2009)
    trees: 2 ceil(log2 n) a + 2 S / B            (two trees: Sanders, Speck and Traeff, Parallel Comput. 35, 2009)

whichever is less, as NCCL chooses. Where there are several machines, a ring or tree passes through the network, which
is the slower link: B is then that of all network adapters of a machine together. DistributedDataParallel begins to sum
a bucket of gradients when the backward pass has made the last of them, one bucket after another.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

FIRST_BUCKET, BUCKET = 2**20, 25 * 2**20  # bytes: what DistributedDataParallel closes its buckets at
_UNBOUND = 0.01  # of a step: less than this, and nothing but the computing itself holds it up


@dataclass(frozen=True)
class Link:
    """Bandwidth in bytes/s, latency in s."""

    bandwidth: float
    latency: float

    def ring(self, size: float, ranks: int) -> float:
        """Seconds of an all-reduce of so many bytes in a ring."""
        return 2 * (ranks - 1) * (self.latency + size / ranks / self.bandwidth)

    def trees(self, size: float, ranks: int) -> float:
        """The same in two trees, each of half the bytes, which are cut into so small pieces that all links work."""
        return 0.0 if ranks == 1 else 2 * (math.ceil(math.log2(ranks)) * self.latency + size / self.bandwidth)

    def all_reduce(self, size: float, ranks: int) -> float:
        """The better of both."""
        return min(self.ring(size, ranks), self.trees(size, ranks))


@dataclass(frozen=True)
class Cluster:
    """What is assumed of the machines.

    Attributes:
        node: the link between GPUs of one machine.
        network: between machines: latency, and the bandwidth of all adapters of a machine together.
        host: between processes on the CPU (Gloo over TCP), which sums in a ring; only its latency counts.
        loader: images per second that the processors beside each GPU read, decode and augment.
        storage: images per second that the storage gives all machines together.
    """

    gpus_per_node: int
    node: Link
    network: Link
    host: Link
    loader: float = math.inf
    storage: float = math.inf

    def link(self, gpus: int) -> Link:
        """The slowest link that so many GPUs sum over."""
        return self.node if gpus <= self.gpus_per_node else self.network


@dataclass(frozen=True)
class Bucket:
    """Gradients that are summed together: bytes, and when the last of them is there, in s from the backward pass on."""

    size: int
    ready: float


@dataclass(frozen=True)
class StepTimes:
    """A step on one GPU, in seconds, and what it asks of the links.

    Attributes:
        images: of one GPU.
        forward, backward, optimizer: forward has everything before the backward pass.
        buckets: in the order in which they are summed.
        small: sums of a few numbers over the GPUs that the step waits for (what losses are divided by; is it finite).
        host: the same over the CPUs (did a signal come).
    """

    images: int
    forward: float
    backward: float
    optimizer: float
    buckets: tuple[Bucket, ...]
    small: int = 0
    host: int = 0

    @property
    def seconds(self) -> float:
        """Of the whole step on one GPU."""
        return self.forward + self.backward + self.optimizer

    @property
    def gradient_bytes(self) -> int:
        """Of all gradients."""
        return sum(bucket.size for bucket in self.buckets)

    def scaled(self, seconds: float) -> StepTimes:
        """The same step on another GPU, which takes so long: every part in proportion."""
        factor = seconds / self.seconds
        buckets = tuple(Bucket(bucket.size, factor * bucket.ready) for bucket in self.buckets)
        times = {name: factor * getattr(self, name) for name in ("forward", "backward", "optimizer")}
        return replace(self, buckets=buckets, **times)


@dataclass(frozen=True)
class Prediction:
    """A step on some GPUs.

    Attributes:
        seconds: of the step.
        summing: seconds in which gradients are summed, hidden behind the backward pass or not.
        exposed: those of them after the backward pass.
        efficiency: images per second, over those of one GPU times the number of GPUs.
        bound: the assumption that binds: the one without which the step would be fastest.
        cost: the seconds that it costs.
    """

    gpus: int
    seconds: float
    images_per_s: float
    summing: float
    exposed: float
    efficiency: float
    bound: str
    cost: float


def fill_buckets(gradients: Iterable[tuple[int, float]]) -> tuple[Bucket, ...]:
    """Buckets as DistributedDataParallel fills them: the first small, so that summing begins early.

    Args:
        gradients: bytes, and when it was there, of each in the order in which they came.
    """
    buckets: list[Bucket] = []
    size, ready = 0, 0.0
    for number, when in gradients:
        size, ready = size + number, max(ready, when)
        if size >= (BUCKET if buckets else FIRST_BUCKET):
            buckets.append(Bucket(size, ready))
            size, ready = 0, 0.0
    return (*buckets, Bucket(size, ready)) if size else tuple(buckets)


def summed_at(buckets: Sequence[Bucket], link: Link, gpus: int) -> float:
    """When the last bucket is summed, in s from the beginning of the backward pass."""
    end = 0.0
    for bucket in buckets:
        end = max(end, bucket.ready) + link.all_reduce(bucket.size, gpus)
    return end


def step_seconds(step: StepTimes, gpus: int, cluster: Cluster) -> float:
    """A step on so many GPUs; the loader works at the same time, and where it is slower, it is waited for."""
    link = cluster.link(gpus)
    backward = max(step.backward, summed_at(step.buckets, link, gpus))
    waits = step.small * link.all_reduce(0, gpus) + step.host * cluster.host.ring(0, gpus)
    loading = max(step.images / cluster.loader, step.images * gpus / cluster.storage)
    return max(step.forward + backward + step.optimizer + waits, loading)


def predict(step: StepTimes, gpus: int, cluster: Cluster) -> Prediction:
    """A step on so many GPUs, with what holds it up."""
    link, seconds = cluster.link(gpus), step_seconds(step, gpus, cluster)
    costs = {name: seconds - step_seconds(step, gpus, other) for name, other in without(cluster, gpus).items()}
    bound = max(costs, key=lambda name: costs[name])
    if costs[bound] < _UNBOUND * seconds:
        bound = "computing"
    return Prediction(
        gpus=gpus,
        seconds=seconds,
        images_per_s=step.images * gpus / seconds,
        summing=sum(link.all_reduce(bucket.size, gpus) for bucket in step.buckets),
        exposed=max(0.0, summed_at(step.buckets, link, gpus) - step.backward),
        efficiency=step.seconds / seconds,
        bound=bound,
        cost=costs.get(bound, 0.0),
    )


def without(cluster: Cluster, gpus: int) -> dict[str, Cluster]:
    """The cluster with one of its limits taken away, by the name of what was assumed."""
    place, link = "node" if gpus <= cluster.gpus_per_node else "network", cluster.link(gpus)

    def linked(other: Link) -> Cluster:
        return replace(cluster, node=other) if place == "node" else replace(cluster, network=other)

    return {
        f"{place} bandwidth": linked(replace(link, bandwidth=math.inf)),
        f"{place} latency": linked(replace(link, latency=0.0)),
        "latency between the CPUs": replace(cluster, host=replace(cluster.host, latency=0.0)),
        "loader": replace(cluster, loader=math.inf),
        "storage": replace(cluster, storage=math.inf),
    }
