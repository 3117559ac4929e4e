"""What the machine has, told without importing torch."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path


def keep_freed_memory() -> bool:
    """Let the C library keep up to 512 MiB of freed memory for the next allocation; glibc only.

    Otherwise temporaries that are freed together go back to the system at each step, and come again page by page: that
    costs several times the arithmetic.

    Returns:
        Whether it took effect.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    settings = ((-3, 32 << 20), (-1, 512 << 20), (-2, 64 << 20))  # mmap threshold, trim threshold, top pad of malloc.h
    return all(libc.mallopt(ctypes.c_int(key), ctypes.c_int(value)) == 1 for key, value in settings)


def find_gpus() -> tuple[str, ...]:
    """Return the CUDA devices that torch sees, as CUDA_VISIBLE_DEVICES names them, without importing torch here.

    Where there is no NVIDIA driver nothing is asked; else a process that imports torch is (about 2 s), unless this one
    has it.
    """
    if not any(Path("/dev").glob("nvidia[0-9]*")) and shutil.which("nvidia-smi") is None:
        return ()
    if "torch" in sys.modules:
        count = int(sys.modules["torch"].cuda.device_count())
    else:
        code = "import torch; print(torch.cuda.device_count())"
        asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        count = int(asked.stdout) if asked.returncode == 0 else 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = [name.strip() for name in visible.split(",")] if visible else [str(index) for index in range(count)]
    return tuple(names[:count])


def physical_memory() -> float:
    """Return the memory of the machine or of this container, in GiB; Linux."""
    size = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with suppress(OSError, ValueError):  # no control group, or no limit ("max")
        size = min(size, float(Path("/sys/fs/cgroup/memory.max").read_text(encoding="utf-8")))
    return size / 2**30


def cores() -> int:
    """Return the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
