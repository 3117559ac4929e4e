"""The data that travels with the project: what it holds, and that a damaged copy is refused."""

from __future__ import annotations

import gzip
import hashlib
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from wbench import datasets
from wbench.errors import DataError, MissingPackageError, UnknownNameError

LOADERS = {
    "mnist": datasets.load_mnist,
    "fashion": datasets.load_fashion,
    "shakespeare": lambda: datasets.load_text("shakespeare"),
    "austen": lambda: datasets.load_text("austen"),
    "engel": lambda: datasets.load_table("engel"),
    "abalone": lambda: datasets.load_table("abalone"),
    "diamonds": lambda: datasets.load_table("diamonds"),
}


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the data folder that the loaders use."""
    folder = tmp_path / "data"
    shutil.copytree(datasets.data_dir(), folder)
    monkeypatch.setenv("WBENCH_DATA", str(folder))
    return folder


@pytest.mark.parametrize("name", LOADERS)
def test_code_list_and_file_agree_on_the_checksum(name: str) -> None:
    path = datasets.data_dir() / datasets.FILES[name]
    listed = dict(reversed(line.split()) for line in (path.parent / "SHA256SUMS").read_text().splitlines())
    actual = hashlib.sha256(path.read_bytes()).hexdigest()
    assert datasets.checksum(name) == actual == listed[path.name]
    assert actual in (path.parent / "SOURCES.md").read_text()


def test_every_data_file_is_listed_and_nothing_else() -> None:
    held = {path.name for path in datasets.data_dir().iterdir()} - {"SHA256SUMS", "SOURCES.md"}
    assert held == set(datasets.CHECKSUMS) == set(datasets.FILES.values())


@pytest.mark.parametrize("name", LOADERS)
@pytest.mark.parametrize("damage", ["one bit", "truncated", "missing"])
def test_a_damaged_copy_is_refused_by_name(copy: Path, name: str, damage: str) -> None:
    LOADERS[name]()  # a good load first: its result must not hide the damage
    path = copy / datasets.FILES[name]
    data = bytearray(path.read_bytes())
    expected = hashlib.sha256(data).hexdigest()
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(data[: len(data) // 2])
    else:
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    with pytest.raises(DataError) as caught:
        LOADERS[name]()
    message = str(caught.value)
    assert str(path) in message and expected in message
    if damage != "missing":
        assert hashlib.sha256(path.read_bytes()).hexdigest() in message


@pytest.mark.parametrize("name", ["mnist", "fashion"])
def test_images_are_balanced_distinct_and_read_only(name: str) -> None:
    images = LOADERS[name]()
    for x, y, count in ((images.x_train, images.y_train, 5000), (images.x_test, images.y_test, 1000)):
        assert x.shape == (count, 28, 28) and x.dtype == np.uint8
        assert x.min() == 0 and x.max() == 255
        assert np.bincount(y).tolist() == [count // 10] * 10
        with pytest.raises(ValueError, match="read-only"):
            x[0] = 0
    rows = [row.tobytes() for x in (images.x_train, images.x_test) for row in x]
    assert len(set(rows)) == 6000


@pytest.mark.parametrize(
    ("name", "length", "distinct", "begin"),
    [("shakespeare", 1_036_467, 76, "HAMLET, PRINCE OF DENMARK"), ("austen", 684_767, 75, "PRIDE AND PREJUDICE")],
)
def test_texts_are_whole(name: str, length: int, distinct: int, begin: str) -> None:
    text = LOADERS[name]()
    with gzip.open(datasets.data_dir() / datasets.FILES[name], "rt", newline="") as file:
        assert text == file.read()
    assert len(text) == length and len(set(text)) == distinct
    assert text.startswith(begin) and text.isascii()


@pytest.mark.parametrize(
    ("name", "shape", "target", "total"),
    [
        ("engel", (235, 2), "foodexp", 146675.276159),
        ("abalone", (4177, 9), "rings", 41493),
        ("diamonds", (53940, 10), "price", 212135217),
    ],
)
def test_tables_are_whole(name: str, shape: tuple[int, int], target: str, total: float) -> None:
    frame = LOADERS[name]()
    assert frame.shape == shape and not frame.isna().any().any()
    assert frame[target].sum() == pytest.approx(total, rel=1e-6)


def test_digits_are_those_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    x, y = datasets.load_digits()
    assert x.shape == (1797, 8, 8) and x.dtype == np.float32 and y.dtype == np.int64
    assert np.array_equal(x.reshape(1797, 64), load_digits().data) and np.array_equal(y, load_digits().target)


@pytest.mark.parametrize("load", [datasets.load_text, datasets.checksum])
def test_an_unknown_name_is_refused_with_the_closest(load: object) -> None:
    with pytest.raises(UnknownNameError, match="shakspeare.*Did you mean shakespeare"):
        load("shakspeare")  # type: ignore[operator]


def test_pictures_are_no_text() -> None:
    with pytest.raises(UnknownNameError, match="mnist"):
        datasets.load_text("mnist")  # type: ignore[arg-type]


def test_without_scikit_learn_the_digits_say_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    datasets.load_digits.cache_clear()
    with pytest.raises(MissingPackageError, match="pip install scikit-learn"):
        datasets.load_digits()
