"""Devices and what there is to say of the machine."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from wbench.errors import KnobError


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """Return the device to use.

    Args:
        device: `auto` (CUDA when there is one), or what torch understands, e.g. `cpu`, `cuda:1`.

    Returns:
        The device.

    Raises:
        KnobError: If torch does not know the device or it is not there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise KnobError(f"device='{device}' is not usable: {reason}; allowed: auto, cpu, cuda[:index]") from None
    return found


def environment(device: torch.device) -> dict[str, Any]:
    """Return versions and machine, for the run record.

    Args:
        device: Where the run trains.

    Returns:
        JSON values.
    """
    from importlib.metadata import version

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    packages = {package: version(package) for package in ("torch", "numpy", "pandas", "pydantic", "safetensors")}
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": f"{device.type} ({name})",
        "threads": torch.get_num_threads(),
        **packages,
    }


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators inside, and give the caller's back after.

    Args:
        seed: The seed.
        device: Its generator is seeded too.

    Yields:
        Nothing.
    """
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def derive(seed: int, stream: str) -> int:
    """Return a seed of its own for each use of randomness in a run.

    Args:
        seed: The run's seed.
        stream: What it is for, e.g. `order`.

    Returns:
        A 63-bit integer.
    """
    import hashlib

    return int.from_bytes(hashlib.sha256(f"{seed}/{stream}".encode()).digest()[:8], "big") >> 1
