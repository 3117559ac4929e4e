"""Shared fixtures: a store of its own for every test, one thread, and a model of a user's own."""

import os

import pytest
import torch
from user_model import UserModel

os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("WBENCH_HOME", str(tmp_path / "home"))


@pytest.fixture
def user_model():
    torch.manual_seed(0)
    return UserModel()


@pytest.fixture
def user_batch():
    rng = torch.Generator().manual_seed(1)
    return torch.randn(32, 1, 8, 8, generator=rng), torch.randint(10, (32,), generator=rng)
