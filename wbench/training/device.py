"""Devices and what there is to say of the machine."""

from __future__ import annotations

import functools
import os
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
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": f"{device.type} ({name})",
        "threads": os.environ.get("WBENCH_THREADS", "1") if device.type == "cpu" else torch.get_num_threads(),
        **_versions(),
    }


@functools.cache
def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {package: version(package) for package in ("torch", "numpy", "pandas", "pydantic", "safetensors")}


@contextmanager
def threads(device: torch.device) -> Iterator[None]:
    """Train on a fixed number of threads, as the last bits of a sum depend on it: `$WBENCH_THREADS`, else one.

    One is also what is fastest for the small models of the tasks, and leaves the other cores to other runs.

    Args:
        device: On anything but a CPU nothing is changed.

    Yields:
        Nothing.

    Raises:
        KnobError: If `$WBENCH_THREADS` is not a positive number.
    """
    text = os.environ.get("WBENCH_THREADS", "1")
    if not text.isdigit() or int(text) < 1:
        raise KnobError(f"WBENCH_THREADS={text!r} is not allowed; allowed: a positive number")
    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(int(text))
    try:
        yield
    finally:
        torch.set_num_threads(before)


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
        torch.default_generator.manual_seed(
            seed
        )  # torch.manual_seed takes a stack trace for each device that is not there
        if devices:
            torch.cuda.manual_seed_all(seed)
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
