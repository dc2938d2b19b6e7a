"""Statistics of batch norms as the average over many training batches with the same weights (TEST.PRECISE_BN).

The moving average that training keeps is over weights that change meanwhile, and weighs the last batches most. Wu and
Johnson, Rethinking "Batch" in BatchNorm, arXiv:2105.07576, section 3 and appendix A.3; what `fvcore.nn.precise_bn`
computes, which detectron2 uses: the mean and the population variance of all values that a norm gets in these batches.
Here they are merged by the numerically stable rule of Chan, Golub and LeVeque (1979), and over all ranks.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from detframe.config import ConfigNode
from detframe.data import Records, build_train_loader
from detframe.data.samplers import mix
from detframe.engine.step import Batch, infinite_names, split_batch, unchanged
from detframe.engine.terminal import clear_progress, show_progress
from detframe.errors import NonFiniteError, listed
from detframe.layers import training_norms
from detframe.modeling.compiling import without_graphs
from detframe.parallel import stopping
from detframe.parallel.collectives import rank, sum_over_ranks, world_size
from detframe.texts import format_seconds

logger = logging.getLogger(__name__)
_PURPOSE = 8  # of the numbers drawn from SEED: these batches are not those that training sees
_SEEDS = 2**53  # below the highest value of SEED
_SHOWN = 3  # names in a message


class Batches(Protocol):
    """This rank's share of one global batch after another, as a TrainLoader."""

    def __next__(self) -> Batch: ...

    def close(self) -> None:
        """End what reads them."""


class PreciseNorms:
    """The statistics of a model's batch norms over `num_batches` training batches, and for which weights they hold.

    Args:
        open_batches: called before each measuring; the same batches every time.
        parts: equal parts in which a batch goes through the model, as in a step of the training.
        autocast: the precision that a step is computed in.
    """

    def __init__(
        self,
        open_batches: Callable[[], Batches],
        num_batches: int,
        parts: int = 1,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self.open_batches = open_batches
        self.num_batches, self.parts, self.autocast = num_batches, parts, autocast
        self.iteration = -1  # whose weights the values belong to
        self.values: dict[str, Tensor] = {}  # by their names in the state dict

    def at(self, iteration: int) -> dict[str, Tensor]:
        """The statistics for the weights after so many iterations, or {} where these are not measured."""
        return self.values if iteration == self.iteration else {}

    def take(self, iteration: int, values: Mapping[str, Tensor]) -> None:
        """Take over statistics that were measured earlier."""
        self.iteration, self.values = iteration, dict(values)

    def measure(self, model: nn.Module, iteration: int) -> None:
        """Measure the statistics for the weights that the model holds; it and all random states stay as they are.

        Called by every rank.

        Raises:
            FloatingPointError: what a norm gets is not finite.
            RunStopped: a signal came.
        """
        begun, training = time.perf_counter(), model.training
        try:
            with unchanged(model), torch.no_grad():
                model.train()
                moments = self._moments(model)
        finally:
            model.train(training)
        values = _statistics(model, moments)
        broken = infinite_names(values.items())
        if broken:
            raise NonFiniteError(
                f"TEST.PRECISE_BN: with the weights after iteration {iteration}, what batch norms get from training "
                f"images is not finite: {listed(broken, _SHOWN)}. Set TEST.PRECISE_BN.ENABLED False, which keeps their "
                "moving averages, or compute in fp32 (SOLVER.AMP off)"
            )
        self.take(iteration, values)
        seconds = format_seconds(time.perf_counter() - begun)
        logger.info(
            "measured the statistics of %d batch norms over %d training batches in %s (TEST.PRECISE_BN)",
            *(len(moments), self.num_batches, seconds),
        )

    def _moments(self, model: nn.Module) -> dict[nn.Module, Moments]:
        """Of the input of each batch norm that trains, over all batches and ranks."""
        moments = {module: Moments(module) for module in training_norms(model).values()}
        with ExitStack() as hooked, closing(self.open_batches()) as batches, without_graphs(model):
            for module, own in moments.items():
                hooked.callback(module.register_forward_pre_hook(partial(_look, own)).remove)
            for number in range(self.num_batches):
                stopping.check()
                show_progress("measuring norms", number, self.num_batches)
                with torch.random.fork_rng(devices=[]):  # what the model draws must not depend on the loader
                    batch = next(batches)
                for part in split_batch(*batch, self.parts):
                    with self.autocast():
                        model(*part)
        clear_progress()
        for own in moments.values():
            own.over_ranks()
        return moments


class Moments:
    """Count, mean and sum of squared deviations of each channel's values, over all that was added.

    Args:
        norm: a batch norm, for the number of channels and the device.
    """

    def __init__(self, norm: Any) -> None:
        self.count = 0
        self.mean = torch.zeros_like(norm.running_mean, dtype=torch.float32)
        self.squares = torch.zeros_like(self.mean)

    def add(self, x: Tensor) -> None:
        """Take in (N, C, ...)."""
        count = x.numel() // x.shape[1] if x.numel() else 0
        if count == 0:
            return
        variance, mean = torch.var_mean(x.float(), [d for d in range(x.dim()) if d != 1], correction=0)
        share, change = count / (self.count + count), mean - self.mean
        self.mean += change * share
        self.squares += count * (variance + change.square() * (1 - share))
        self.count += count

    def over_ranks(self) -> None:
        """Make them those of all ranks; called by every rank."""
        if world_size() == 1:
            return
        counted = sum_over_ranks(torch.cat([self.mean.new_tensor([self.count]), self.mean * self.count]))
        mean = counted[1:] / counted[0].clamp(min=1)
        self.squares = sum_over_ranks(self.squares + self.count * (self.mean - mean).square())
        self.mean, self.count = mean, int(counted[0])

    @property
    def variance(self) -> Tensor:
        """Of the population: the mean of the squared deviations."""
        return self.squares / self.count


def _look(moments: Moments, module: nn.Module, inputs: tuple[Any, ...]) -> None:
    moments.add(inputs[0])


def _statistics(model: nn.Module, moments: Mapping[nn.Module, Moments]) -> dict[str, Tensor]:
    """Running statistics by their names in the state dict; norms that no batch came to keep theirs."""
    out: dict[str, Tensor] = {}
    for name, module in model.named_modules(remove_duplicate=False):  # a shared one has several names there
        own = moments.get(module)
        if own is not None and own.count:
            norm: Any = module
            prefix = f"{name}." if name else ""
            out[f"{prefix}running_mean"] = own.mean.to(norm.running_mean.dtype)
            out[f"{prefix}running_var"] = own.variance.to(norm.running_var.dtype)
    return out


@contextmanager
def filled(model: nn.Module, values: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside the `with`, the model holds these values of its state dict, and its own, bit for bit, afterwards."""
    entries = {name: value.detach() for name, value in model.state_dict().items() if name in values}
    own = {name: value.clone() for name, value in entries.items()}
    try:
        for name, value in entries.items():
            value.copy_(values[name])
        yield
    finally:
        for name, value in entries.items():
            value.copy_(own[name])


def build_precise_norms(
    cfg: ConfigNode, model: nn.Module, records: Records, autocast: Callable[[], AbstractContextManager[Any]]
) -> PreciseNorms | None:
    """What TEST.PRECISE_BN asks for, or None where it asks for nothing or the model has no batch norms that train.

    Args:
        model: in the mode in which it will train.
        records: of the training data.
    """
    if not cfg.TEST.PRECISE_BN.ENABLED:
        return None
    if not training_norms(model):
        logger.info("TEST.PRECISE_BN: the model has no batch norms that train, so there is nothing to measure")
        return None
    seeded = cfg.changed([("SEED", mix(cfg.SEED, _PURPOSE) % _SEEDS), ("DATALOADER.CACHE_RAM", 0.0)])

    def open_batches() -> Batches:
        return build_train_loader(seeded, records, 0, rank(), world_size())

    return PreciseNorms(open_batches, cfg.TEST.PRECISE_BN.NUM_ITER, cfg.SOLVER.ACCUMULATE_STEPS, autocast)
