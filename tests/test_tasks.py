"""The tasks: disjoint splits, one seed for everything, options that do what they say, metrics with closed forms."""

from __future__ import annotations

import math
import pickle
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from split_tensors import rows, tensors
from torch import Tensor, nn

import wbench as wb
from wbench.datasets import load_digits, load_text
from wbench.errors import KnobError, UnknownNameError
from wbench.splits import WindowSplit, tensors_checksum
from wbench.task import Task
from wbench.tasks import Chars, DigitDomains, Digits, DigitStreams, Fashion, LinearTeacher, Mnist, find_task, task_text
from wbench.tasks.chars import ALPHABET, encode

VARIANTS: dict[str, Task] = {
    "digits": Digits(),
    "digits, few and noisy": Digits(train_size=200, label_noise=0.1),
    "digits, half, vit": Digits(classes="5-9", architecture="vit"),
    "digits, random labels": Digits(random_labels=True, architecture="residual_mlp"),
    "digits, permuted": Digits(permuted=True),
    "mnist": Mnist(),
    "mnist, few": Mnist(train_size=100, architecture="vit"),
    "fashion": Fashion(),
    "fashion, resnet": Fashion(architecture="resnet"),
    "chars": Chars(),
    "chars, austen": Chars(text="austen", size="tiny", tie=True, context=32),
    "digit_domains": DigitDomains(),
    "digit_domains, mix": DigitDomains(domain="mix", architecture="convnet"),
    "digit_streams": DigitStreams(tasks=5),
    "digit_streams, permuted": DigitStreams(stream_of="permuted", tasks=3),
    "digit_streams, classes": DigitStreams(stream_of="classes", tasks=3),
    "linear_teacher": LinearTeacher(),
}


@pytest.mark.parametrize("name", [key for key in VARIANTS if key.startswith(("digits", "mnist", "fashion", "digit_d"))])
def test_no_image_is_in_two_splits(name: str) -> None:
    splits = VARIANTS[name].data(3)
    assert set(splits) == {"train", "valid", "test"}
    for first, second in combinations(splits.values(), 2):
        assert not rows(first) & rows(second)
    assert all(len(rows(split)) == len(split) for split in splits.values())


@pytest.mark.parametrize("name", VARIANTS)
def test_one_seed_decides_data_and_weights(name: str) -> None:
    task = VARIANTS[name]
    torch.manual_seed(10)
    first, weights = task.data(1).checksums(), tensors_checksum(task.model(1).state_dict())
    torch.manual_seed(11)
    state = torch.get_rng_state()
    assert task.data(1).checksums() == first and tensors_checksum(task.model(1).state_dict()) == weights
    assert torch.equal(torch.get_rng_state(), state), "the global generator was touched"
    assert tensors_checksum(task.model(2).state_dict()) != weights
    if task.id != "chars":  # a text is what it is: there the seed decides the order only
        assert task.data(2).checksums()["train"] != first["train"]


@pytest.mark.parametrize("name", VARIANTS)
def test_model_and_data_fit_together(name: str) -> None:
    task = VARIANTS[name]
    splits, model = task.data(0), task.model(0).eval()
    for split in splits.values():
        batch = next(split.batches(8, torch.Generator().manual_seed(0)))
        loss = task.loss(model(batch[0]), batch)
        assert loss.shape == (len(batch[0]),) and torch.isfinite(loss).all()
        assert len(next(split.sequential(4))[0]) == 4


@pytest.mark.parametrize("name", VARIANTS)
def test_a_task_survives_pickling_and_its_own_fields(name: str) -> None:
    task = VARIANTS[name]
    again = pickle.loads(pickle.dumps(task))
    assert again == task and again.fingerprint() == task.fingerprint()
    assert type(task).from_strings({key: _text(value) for key, value in task}) == task


def _text(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


@pytest.mark.parametrize("task_id", wb.tasks.all())
def test_every_scale_has_a_recipe_whose_phases_have_data(task_id: str) -> None:
    task = wb.tasks.get(task_id)()
    splits = task.data(0)
    steps = [task.recipe(scale).total_steps for scale in ("smoke", "cpu", "gpu")]
    assert steps == sorted(steps) and steps[0] < steps[1]
    for scale in ("smoke", "cpu", "gpu"):
        assert {phase.name for phase in task.recipe(scale).plan} <= set(splits)
    with pytest.raises(KnobError, match="scale='huge' is not allowed; allowed: smoke, cpu, gpu"):
        task.recipe("huge")


@pytest.mark.parametrize("name", ["digits", "mnist", "fashion", "chars", "digit_domains", "linear_teacher"])
def test_the_smoke_recipe_learns(name: str, tmp_path: Path) -> None:
    task = VARIANTS[name]
    run = wb.train(task, scale="smoke", probes=(), device="cpu", store=wb.RunStore(tmp_path))
    batch = next(task.data(0)["test"].sequential(200))
    before = float(task.loss(task.model(0).eval()(batch[0]), batch).detach().mean())
    assert run.status == "finished" and run.final("loss", "test") < 0.9 * before


# digits


def test_the_setting_of_the_weight_compander_claim() -> None:
    noisy, clean = (Digits(train_size=200, label_noise=share).data(4) for share in (0.1, 0.0))
    assert [len(split) for split in noisy.values()] == [200, 300, 1297]
    assert torch.equal(tensors(noisy["train"])[0], tensors(clean["train"])[0])
    changed = int((tensors(noisy["train"])[1] != tensors(clean["train"])[1]).sum())
    assert 10 <= changed <= 20  # 20 are drawn anew, one in ten as it was
    for name in ("valid", "test"):
        assert noisy[name].checksum() == clean[name].checksum()
    linear = [module for module in Digits().model(0).modules() if isinstance(module, nn.Linear)]
    assert [layer.in_features for layer in linear] == [64, 128, 128] and linear[-1].out_features == 10


def test_digits_are_the_images_of_scikit_learn_over_sixteen() -> None:
    images, labels = load_digits()
    known = {(image / 16).astype(np.float32).tobytes(): int(label) for image, label in zip(images, labels, strict=True)}
    for split in Digits().data(7).values():
        for image, label in zip(*tensors(split), strict=True):
            assert known[image.numpy().tobytes()] == int(label)


@pytest.mark.parametrize(("classes", "kept"), [("0-4", {0, 1, 2, 3, 4}), ("5-9", {5, 6, 7, 8, 9})])
def test_half_of_the_digits(classes: str, kept: set[int]) -> None:
    splits = Digits(classes=classes, label_noise=1.0).data(0)
    for split in splits.values():
        assert set(tensors(split)[1].tolist()) == kept
    assert [len(split) for split in splits.values()][:2] == [500, 150] and len(splits["test"]) > 200


def test_permuted_digits_hold_the_same_pixels_in_one_other_order() -> None:
    task = Digits(permuted=True)
    columns = torch.cat([tensors(split)[0].flatten(1) for split in task.data(0).values()])
    plain = torch.from_numpy(np.array(load_digits()[0])).flatten(1) / 16
    sorted_columns = {tuple(column.sort().values.tolist()) for column in columns.T}
    assert sorted_columns == {tuple(column.sort().values.tolist()) for column in plain.T}
    assert {row.numpy().tobytes() for row in columns} != {row.numpy().tobytes() for row in plain}


def test_random_labels_say_nothing_of_the_image() -> None:
    random, clean = (tensors(Digits(random_labels=flag).data(0)["train"])[1] for flag in (True, False))
    agreement = float((random == clean).float().mean())
    assert abs(agreement - 0.1) < 4 * math.sqrt(0.09 / 1000)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_size": 0}, "train_size=0 is out of range; allowed: an integer from 10 to 1496"),
        ({"train_size": 5000}, "train_size=5000 is out of range"),
        ({"label_noise": 1.5}, "label_noise=1.5 is out of range"),
        ({"classes": "3-4"}, "classes='3-4' is not allowed; allowed: one of all, 0-4, 5-9"),
        ({"hidden": (0,)}, r"hidden=\(0,\) is out of range"),
        ({"colour": "red"}, "unknown field 'colour'"),
    ],
)
def test_an_option_that_is_not_allowed_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(KnobError, match=message):
        Digits(**options)


def test_a_selection_that_leaves_nothing_to_test_on_is_refused() -> None:
    assert len(Digits(train_size=1496).data(0)["test"]) == 1
    with pytest.raises(KnobError, match="train_size=1000 is out of range; allowed: up to 750 of these 901 samples"):
        Digits(classes="0-4", train_size=1000).data(0)


def test_an_unknown_task_is_refused_with_the_closest() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean digits"):
        wb.tasks.get("digitz")


# mnist and fashion


def test_picture_splits_share_validation_and_test_over_seeds() -> None:
    first, second = Mnist(train_size=50).data(0), Mnist().data(1)
    for name, size in (("valid", 500), ("test", 1000)):
        assert first[name].checksum() == second[name].checksum() and len(first[name]) == size
    assert len(first["train"]) == 50 and len(second["train"]) == 4500
    assert rows(first["train"]) <= rows(second["train"])
    images = tensors(second["train"])[0]
    assert images.shape[1:] == (1, 28, 28) and float(images.min()) == 0.0 and float(images.max()) == 1.0


def test_the_large_models_are_larger() -> None:
    for architecture in ("convnet", "resnet", "vit"):
        small, large = (
            sum(p.numel() for p in Mnist(architecture=architecture, size=size).model(0).parameters())
            for size in ("small", "large")
        )
        assert large > 10 * small


# chars


def test_encoding_is_inverted_by_the_alphabet() -> None:
    text = load_text("shakespeare")[:5000]
    assert "".join(ALPHABET[index] for index in encode(text)) == text
    assert [ALPHABET[index] for index in encode("aé—\t\0z")] == ["a", " ", " ", " ", " ", "z"]


@pytest.mark.parametrize("context", [8, 64, 1024])
def test_the_text_is_cut_before_it_is_windowed(context: int) -> None:
    splits, tokens = Chars(context=context).data(0), encode(load_text("shakespeare"))
    first, second = int(0.8 * len(tokens)), int(0.9 * len(tokens))
    starts = {"train": (0, first), "valid": (first, second), "test": (second, len(tokens))}
    for name, (begin, end) in starts.items():
        split = splits[name]
        assert isinstance(split, WindowSplit) and len(split.tokens) <= end - begin
        assert torch.equal(split.tokens, tokens[begin : begin + len(split.tokens)])
        x, y = next(split.batches(3, torch.Generator().manual_seed(0)))
        assert x.shape == y.shape == (3, context) and torch.equal(x[:, 1:], y[:, :-1])


def test_a_model_that_knows_nothing_scores_the_log_of_the_alphabet() -> None:
    task = Chars(context=32)
    split = task.data(0)["test"]
    items: dict[str, Tensor] = {}
    metrics = task.metrics(nn.Identity(), split, lambda batch: torch.zeros(*batch[0].shape, len(ALPHABET)), items)
    assert metrics == {"loss": pytest.approx(math.log(len(ALPHABET)), rel=1e-6)}
    assert items["loss"].shape == (512,)


def test_the_loss_of_chars_is_the_mean_over_characters() -> None:
    task, tokens = Chars(context=16), encode(load_text("austen"))[:161]
    split = WindowSplit(tokens, 16)
    table = torch.randn(len(ALPHABET), len(ALPHABET), generator=torch.Generator().manual_seed(0))  # a bigram model
    expected = -table.double().log_softmax(-1)[tokens[:160], tokens[1:161]].mean()
    found = task.metrics(nn.Identity(), split, lambda batch: table[batch[0]])["loss"]
    assert found == pytest.approx(float(expected), rel=1e-6)


def test_a_tasks_name_may_carry_options_and_comes_back_as_text():
    task = find_task("digits labels_per_class=2 norm=batch hidden=128,64")
    assert task == Digits(labels_per_class=2, norm="batch", hidden=(128, 64))
    text = task_text(task)
    assert text == "digits hidden=128,64 norm=batch labels_per_class=2" and find_task(text) == task
    assert task_text(Digits()) == "digits"
    with pytest.raises(KnobError, match="'batch' is not allowed"):
        find_task("digits batch")
    with pytest.raises(KnobError, match="no_such"):
        find_task("digits no_such=1")
