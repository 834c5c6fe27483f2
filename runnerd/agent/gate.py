"""The hardware gate: an instance that lacks the GPUs it is paid for takes no job.

The driver may need a while after boot, so the wait for it is bounded, not zero.
"""

from __future__ import annotations

import re
import time
import typing

from runnerd.agent import nvidia

#: Seconds to go on looking when the driver answers with too few GPUs: more may still come up.
SETTLE = 15.0
_EVERY = 1.0


class Failed(Exception):
    """The hardware is not what it should be."""


def fits(wanted: str, model: str) -> bool:
    """True when a model's full name is that of the wanted GPU: ``a100-40`` is ``NVIDIA A100-SXM4-40GB``.

    Memory is compared where the name tells it; a name without it is taken at its word.
    """
    words = [word for word in re.split(r"[^a-z0-9]+", model.lower()) if word]
    name, *rest = [word for word in re.split(r"[^a-z0-9]+", wanted.lower()) if word] or [""]
    sizes = {word[:-2] for word in words if re.fullmatch(r"\d+gb", word)}
    if name and name not in words and name.replace("rtx", "") not in words:
        return False
    for word in rest:
        size = re.fullmatch(r"(\d+)(?:gb?)?", word)
        if size is not None and sizes and size[1] not in sizes:
            return False
        if size is None and word not in words:
            return False
    return True


def prove(
    gpus: int,
    gpu: str,
    *,
    patience: float,
    look: typing.Callable[[], list[str]] = nvidia.models,
    now: typing.Callable[[], float] = time.monotonic,
    sleep: typing.Callable[[float], None] = time.sleep,
) -> list[str]:
    """The models of the GPUs; nothing is asked when none are wanted.  Raises :class:`Failed`.

    ``patience`` is how many seconds to wait for the driver.
    """
    if gpus <= 0:
        return []
    began = now()
    while True:
        try:
            models = look()
            if len(models) == gpus:
                wrong = [model for model in models if not fits(gpu, model)]
                if wrong:
                    raise Failed(f'the GPU is "{wrong[0]}", wanted is {gpu}')
                return models
            trouble = f"{len(models)} GPUs are there, wanted are {gpus}"
            limit = min(patience, SETTLE)
        except nvidia.Silent as error:
            trouble = f"{error}; wanted are {gpus} GPUs"
            limit = patience
        if now() - began >= limit:
            raise Failed(trouble)
        sleep(_EVERY)
