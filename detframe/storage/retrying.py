"""Trying again: pauses that double, each shortened by chance so that many processes do not come back at once."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from detframe.errors import UnreachableError
from detframe.storage.addresses import bucket_of
from detframe.storage.faults import explained, is_local, reason
from detframe.storage.settings import answered, current

logger = logging.getLogger(__name__)
T = TypeVar("T")

FIRST_SECONDS = 8.0  # of patience with a store that has never answered: its name may be wrong, or the network away
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 20.0
_chance = random.SystemRandom()  # which no seed of a run knows, and which changes no run


def persistently(address: str, act: Callable[[], T], patience: float | None = None) -> T:
    """What `act` gives, asked again after each lost connection for as long as the settings say.

    Args:
        address: of what is read, without secrets.
        patience: seconds, in place of those.

    Raises:
        UserError: what will not pass; at once.
        UnreachableError: the store did not answer for `retry_seconds`, or, where it never has, for FIRST_SECONDS.
        OSError: this machine is at fault (a full disk).
    """
    store, begun, tries = bucket_of(address), time.monotonic(), 0
    while True:
        try:
            result = act()
        except Exception as error:  # of any of the libraries that read from stores
            if is_local(error):
                raise
            known = explained(error, address)
            if known is not None:
                raise known from None
            tries += 1
            _wait(address, error, tries, begun, patience)
            continue
        if tries:
            logger.info("%s answers again, after %.0f s", store, time.monotonic() - begun)
        answered.add(store)
        return result


def _wait(address: str, error: Exception, tries: int, begun: float, limit: float | None) -> None:
    known = bucket_of(address) in answered
    patience = current().retry_seconds if limit is None else limit
    patience = patience if known else min(patience, FIRST_SECONDS)
    pause = min(_FIRST_PAUSE * 2 ** (tries - 1), _LONGEST_PAUSE) * _chance.uniform(0.5, 1.0)
    waited = time.monotonic() - begun
    if waited + pause > patience:
        raise UnreachableError(_given_up(address, error, tries, waited, known)) from None
    level = logging.WARNING if pause > 1 else logging.DEBUG
    logger.log(level, "%s: %s; asking again for up to %.0f s more", address, reason(error), patience - waited)
    time.sleep(pause)


def _given_up(address: str, error: Exception, tries: int, waited: float, known: bool) -> str:
    said = f"{address} cannot be reached: {reason(error)}, {tries} {'try' if tries == 1 else 'tries'} in {waited:.0f} s"
    if known:
        return (
            f"{said}. {bucket_of(address)} answered before: go on with --resume when it is back (a study "
            "with its own command), or raise DATALOADER.RETRY_SECONDS"
        )
    return f"{said}. Is this machine on the network, and is the address right, with the endpoint if it has one?"
