"""Loaders of the data that travels with the project; a file that is not what it was is refused by name."""

from __future__ import annotations

import functools
import gzip
import hashlib
import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from wbench.errors import DataError, MissingPackageError, UnknownNameError, closest

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

CHECKSUMS = {
    "abalone.zip": "bb71e7da9981886496a020bad41f4a52a9cc13e6602e3390f81d5a9952b8b2f2",
    "austen_prideprejudice.txt.gz": "e674216ebd500102f37dca05c2d89ff740f674bb8b5d22d1a505622f308cdf1a",
    "diamonds.csv.gz": "937edfaa3b414fb2599edb49823d87c1f18d1347b744a00072891bc276690a0b",
    "engel.csv": "796c3da0406291dd324c51901b51386be12b5f52e330afaf69584f57c06ad45c",
    "fashion5k.npz": "d16f6fef651bfe1b2eb207035de5e2006bd34462233ba88314b08e79379296f9",
    "mnist5k.npz": "a4960a085f399d14696ca2a06a84af6cbf3d4b96fb7e909f5c23055ab5bc2b05",
    "shakespeare8.txt.gz": "b5e36f941d6780d3d324ca7ed4716c7fd7ca9adf76e4014a24df2613a306f0d8",
}
FILES = {
    "abalone": "abalone.zip",
    "austen": "austen_prideprejudice.txt.gz",
    "diamonds": "diamonds.csv.gz",
    "engel": "engel.csv",
    "fashion": "fashion5k.npz",
    "mnist": "mnist5k.npz",
    "shakespeare": "shakespeare8.txt.gz",
}


@dataclass(frozen=True)
class Images:
    """Labelled images in two parts; the arrays are read-only, as they are shared.

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
        hint = "reinstall wbench, or set WBENCH_DATA to the folder that holds it"
        raise DataError(f"data file {path} is missing (SHA-256 {CHECKSUMS[name]}); {hint}") from None
    actual = _digest(path, stat.st_size, stat.st_mtime_ns)
    if actual != CHECKSUMS[name]:
        raise DataError(
            f"data file {path} is corrupted: its SHA-256 is {actual}, expected {CHECKSUMS[name]}; "
            "restore the file (`git checkout -- data`) or reinstall wbench"
        )
    return path


@functools.lru_cache(maxsize=32)
def _digest(path: Path, size: int, changed: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def checksum(name: str) -> str:
    """Return the SHA-256 of a data set's file, after checking that the file has it.

    Args:
        name: `mnist`, `fashion`, `shakespeare`, `austen`, `engel`, `abalone` or `diamonds`.

    Returns:
        64 hex digits.
    """
    return CHECKSUMS[checked(_file(name)).name]


def _file(name: str, known: tuple[str, ...] = tuple(FILES)) -> str:
    if name not in known:
        raise UnknownNameError(f"unknown data set '{name}'.{closest(name, known)}")
    return FILES[name]


def load_mnist() -> Images:
    """Return 5,000 + 1,000 handwritten digits of 28 x 28; all are from MNIST's training part, see `data/SOURCES.md`."""
    return _images(FILES["mnist"])


def load_fashion() -> Images:
    """Return 5,000 + 1,000 pictures of clothes of 28 x 28 (Fashion-MNIST)."""
    return _images(FILES["fashion"])


@functools.lru_cache(maxsize=4)
def _read_images(path: Path, changed: int) -> Images:
    import numpy as np

    with np.load(path, allow_pickle=False) as held:
        parts = {name: held[name] for name in held.files}
    kinds = {"x_train": "uint8", "y_train": "int64", "x_test": "uint8", "y_test": "int64"}
    return Images(**{name: _fixed(parts[name], dtype) for name, dtype in kinds.items()})


def _fixed(array: np.ndarray, dtype: str) -> np.ndarray:
    array = array.astype(dtype)
    array.setflags(write=False)
    return array


def _images(name: str) -> Images:
    path = checked(name)
    return _read_images(path, path.stat().st_mtime_ns)


def load_text(name: Literal["shakespeare", "austen"]) -> str:
    """Return a text.

    Args:
        name: `shakespeare` (eight plays) or `austen` (Pride and Prejudice).

    Returns:
        The text, ASCII.

    """
    return gzip.decompress(checked(_file(name, ("shakespeare", "austen"))).read_bytes()).decode("ascii")


def load_table(name: Literal["engel", "abalone", "diamonds"]) -> pd.DataFrame:
    """Return a table as it was published, a new copy each time.

    Args:
        name: `engel` (235 households: income, foodexp), `abalone` (4,177: sex, seven measures, rings) or `diamonds` (53,940:
            carat, cut, color, clarity, depth, table, price, x, y, z).

    Returns:
        A row each.
    """
    import pandas as pd

    return pd.read_csv(checked(_file(name, ("engel", "abalone", "diamonds"))))


@functools.lru_cache(maxsize=1)
def load_digits() -> tuple[np.ndarray, np.ndarray]:
    """Return scikit-learn's 1,797 digits: images (1797, 8, 8) of values 0 to 16, float32, and classes (1797,), int64.

    Raises:
        MissingPackageError: Without scikit-learn.
    """
    import numpy as np

    try:
        package = importlib.util.find_spec("sklearn")
    except ValueError:
        package = None
    if package is None:
        raise MissingPackageError("the digits need scikit-learn; install it: pip install scikit-learn")
    file = Path(str((package.submodule_search_locations or [""])[0]), "datasets", "data", "digits.csv.gz")
    if file.is_file():  # its file alone: importing scikit-learn takes a second, in each process of a study
        rows = np.loadtxt(file, delimiter=",")
        return _fixed(rows[:, :64].reshape(-1, 8, 8), "float32"), _fixed(rows[:, 64], "int64")
    from sklearn import datasets

    found = datasets.load_digits()
    return _fixed(found.images, "float32"), _fixed(found.target, "int64")
