"""The GPU preflight: an instance that lacks the GPUs it is paid for takes no job.

The driver may need some time after boot, so the preflight waits for it, within a limit.
"""

from __future__ import annotations

import re
import time
import typing

from runnerd.agent import nvidia

#: Seconds to keep polling when the driver reports too few GPUs: more may still come up.
SETTLE_S = 15.0
#: Seconds between two polls.
_INTERVAL_S = 1.0


class Failed(Exception):
    """The GPUs are not the required ones."""


def fits(wanted: str, model: str) -> bool:
    """Return True when a model's full name matches the required GPU: ``a100-40`` is ``NVIDIA A100-SXM4-40GB``.

    Memory is compared only where the model's name states it.
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


def check(
    gpus: int,
    gpu: str,
    *,
    patience: float,
    list_models: typing.Callable[[], list[str]] = nvidia.models,
    now: typing.Callable[[], float] = time.monotonic,
    sleep: typing.Callable[[float], None] = time.sleep,
) -> list[str]:
    """Return the models of the GPUs; the driver is not asked when none are required.  Raises :class:`Failed`.

    ``patience`` is the number of seconds to wait for the driver.
    """
    if gpus <= 0:
        return []
    began = now()
    while True:
        try:
            models = list_models()
            if len(models) == gpus:
                wrong = [model for model in models if not fits(gpu, model)]
                if wrong:
                    raise Failed(f'the GPU is "{wrong[0]}", {gpu} is required')
                return models
            problem = f"{_gpus(len(models))} found, {_gpus(gpus)} required"
            limit = min(patience, SETTLE_S)
        except nvidia.NoAnswer as error:
            problem = f"{error}; {_gpus(gpus)} required"
            limit = patience
        if now() - began >= limit:
            raise Failed(problem)
        sleep(_INTERVAL_S)


def _gpus(count: int) -> str:
    return f"{count} GPU" if count == 1 else f"{count} GPUs"
