"""Loaders of the data that travels with the project; a file that is not what it was is refused by name."""

from __future__ import annotations

import functools
import gzip
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from wbench.errors import DataError, MissingPackageError

if TYPE_CHECKING:
    import numpy as np

CHECKSUMS = {
    "austen_prideprejudice.txt.gz": "e674216ebd500102f37dca05c2d89ff740f674bb8b5d22d1a505622f308cdf1a",
    "fashion5k.npz": "d16f6fef651bfe1b2eb207035de5e2006bd34462233ba88314b08e79379296f9",
    "mnist5k.npz": "a4960a085f399d14696ca2a06a84af6cbf3d4b96fb7e909f5c23055ab5bc2b05",
    "shakespeare8.txt.gz": "b5e36f941d6780d3d324ca7ed4716c7fd7ca9adf76e4014a24df2613a306f0d8",
}


@dataclass(frozen=True)
class Images:
    """Labelled images in two parts.

    Attributes:
        x_train: (samples, height, width), uint8.
        y_train: (samples,), int64.
        x_test: (samples, height, width), uint8.
        y_test: (samples,), int64.
    """

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


def data_dir() -> Path:
    """Return the folder of the data: `$WBENCH_DATA`, else that of the installed package, else that of the checkout."""
    if "WBENCH_DATA" in os.environ:
        return Path(os.environ["WBENCH_DATA"])
    installed = Path(__file__).parent / "_share" / "data"
    return installed if installed.is_dir() else Path(__file__).parents[1] / "data"


def checked(name: str) -> Path:
    """Return the path of a data file whose checksum is right.

    Args:
        name: File name.

    Returns:
        The path.

    Raises:
        DataError: If the file is missing or its SHA-256 differs.
    """
    path = data_dir() / name
    try:
        stat = path.stat()
    except OSError:
        raise DataError(f"data file {path} is missing; reinstall wbench, or set WBENCH_DATA to the folder that holds it") from None
    actual = _digest(path, stat.st_size, stat.st_mtime_ns)
    if actual != CHECKSUMS[name]:
        raise DataError(f"data file {path} is corrupted: SHA-256 {actual[:16]}... instead of {CHECKSUMS[name][:16]}...; restore it")
    return path


@functools.lru_cache(maxsize=32)
def _digest(path: Path, size: int, changed: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def load_mnist() -> Images:
    """Return 5,000 + 1,000 handwritten digits of 28 x 28.

    Raises:
        DataError: If the file is missing or corrupted.
    """
    return _images("mnist5k.npz")


def load_fashion() -> Images:
    """Return 5,000 + 1,000 pictures of clothes of 28 x 28 (Fashion-MNIST).

    Raises:
        DataError: If the file is missing or corrupted.
    """
    return _images("fashion5k.npz")


@functools.lru_cache(maxsize=4)
def _read_images(path: Path, changed: int) -> Images:
    import numpy as np

    with np.load(path, allow_pickle=False) as held:
        parts = {name: held[name] for name in held.files}
    return Images(*(parts[key].astype(kind) for key, kind in (("x_train", "u1"), ("y_train", "i8"), ("x_test", "u1"), ("y_test", "i8"))))


def _images(name: str) -> Images:
    path = checked(name)
    return _read_images(path, path.stat().st_mtime_ns)


def load_text(name: Literal["shakespeare", "austen"]) -> str:
    """Return a text.

    Args:
        name: `shakespeare` (eight plays) or `austen` (Pride and Prejudice).

    Returns:
        The text, ASCII.

    Raises:
        DataError: If the file is missing or corrupted.
    """
    file = "shakespeare8.txt.gz" if name == "shakespeare" else "austen_prideprejudice.txt.gz"
    return gzip.decompress(checked(file).read_bytes()).decode("ascii")


def load_digits() -> tuple[np.ndarray, np.ndarray]:
    """Return scikit-learn's 1,797 digits: images (1797, 8, 8) of values 0 to 16, float32, and classes (1797,), int64.

    Raises:
        MissingPackageError: Without scikit-learn.
    """
    try:
        from sklearn import datasets
    except ImportError:
        raise MissingPackageError("the digits need scikit-learn; install it: pip install scikit-learn") from None
    x, y = _sklearn_digits(datasets.load_digits)
    return x, y


@functools.lru_cache(maxsize=1)
def _sklearn_digits(load: object) -> tuple[np.ndarray, np.ndarray]:
    found = load()  # type: ignore[operator]
    return found.images.astype("float32"), found.target.astype("int64")
