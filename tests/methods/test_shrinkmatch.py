"""ShrinkMatch and FixMatch: the loop of the paper's steps, gradients by hand, and what a run of few labels records."""

import pytest
import torch
from torch import nn

import wbench as wb
from wbench.errors import CompositionError, DataError, FitError, KnobError
from wbench.method import Context
from wbench.methods import FixMatch, ShrinkMatch
from wbench.methods.objective.fixmatch import STATE, certain_loss
from wbench.methods.objective.shrinkmatch import shrink
from wbench.models import MLP
from wbench.splits import TensorSplit
from wbench.tasks._views import distorted, shifted
from wbench.testing import check_method

F64 = torch.float64
TASK = wb.tasks.Digits(labels_per_class=2, hidden=(32, 16), norm="batch", train_size=300)
RECIPE = wb.Recipe(optimizer="sgd", lr=0.03, momentum=0.9, steps=12, batch_size=20)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def loop(p, logits, threshold):
    """The paper's step 5 and 6, sample by sample: value, removed classes, passed."""
    found = []
    for row, own in zip(p.tolist(), logits, strict=True):
        order = sorted(range(len(row)), key=lambda c: -row[c])
        conf = 0.0
        c = 2
        for c in range(2, len(row)):
            conf = row[order[0]] / (row[order[0]] + sum(row[j] for j in order[c:]))
            if conf >= threshold:
                break
        kept = [order[0], *order[c:]]
        loss = own[kept].logsumexp(0) - own[order[0]]
        found.append((loss, c - 1, conf >= threshold))
    return found


@pytest.mark.parametrize("classes", [3, 4, 10, 37])
@pytest.mark.parametrize("threshold", [0.6, 0.8, 0.95])
def test_the_vectorised_loss_is_the_loop_with_its_gradient(classes, threshold):
    p = (1.5 * draw(50, classes)).softmax(1)
    one, other = draw(50, classes, seed=1).requires_grad_(), draw(50, classes, seed=1).requires_grad_()
    ours, theirs = shrink(p, one, threshold), loop(p, other, threshold)
    assert ours.removed.tolist() == [removed for _, removed, _ in theirs]
    assert ours.passed.tolist() == [passed for _, _, passed in theirs]
    values = torch.stack([loss for loss, _, _ in theirs])
    assert torch.allclose(ours.loss, values, atol=1e-12)
    ours.loss.sum().backward()
    values.sum().backward()
    assert torch.allclose(one.grad, other.grad, atol=1e-12)
    assert (one.grad[~ours.kept] == 0).all() and float(one.grad.sum(1).abs().max()) < 1e-12


def test_the_worked_example():
    p = torch.tensor([[0.5, 0.45, 0.03, 0.02]], dtype=F64)
    looser, stricter = shrink(p, draw(1, 4), 0.9), shrink(p, draw(1, 4), 0.95)
    assert looser.kept.tolist() == [[True, False, True, True]] and looser.removed.tolist() == [1]
    assert stricter.kept.tolist() == [[True, False, False, True]] and bool(stricter.passed)
    assert not bool(shrink(p, draw(1, 4), 0.97).passed)


def test_two_classes_leave_nothing_to_shrink_and_a_permutation_of_classes_changes_nothing():
    assert float(shrink(draw(5, 2).softmax(1), draw(5, 2), 0.9).loss.abs().sum()) == 0
    p, logits, order = draw(20, 6).softmax(1), draw(20, 6, seed=2), torch.randperm(6)
    assert torch.allclose(shrink(p, logits, 0.8).loss, shrink(p[:, order], logits[:, order], 0.8).loss)


def test_the_certain_part_is_a_soft_cross_entropy_over_all_samples():
    weak, strong = (4 * draw(30, 5)).softmax(1), draw(30, 5, seed=1)
    value, certain = certain_loss(weak, strong, 0.8)
    by_hand = sum(
        -float((w * s.log_softmax(0)).sum()) for w, s in zip(weak, strong, strict=True) if float(w.max()) >= 0.8
    )
    assert float(value) == pytest.approx(by_hand / 30) and 0 < int(certain.sum()) < 30


def prepared(method, seed=0):
    torch.manual_seed(seed)
    net = MLP((64, 32, 16, 10), norm=nn.BatchNorm1d)
    ctx = Context(splits=TASK.data(0), task=TASK, methods=(method,))
    return method.prepare(net, ctx), ctx


def batch():
    return tuple(part for part in next(iter(TASK.data(0)["train"].batches(20, torch.Generator().manual_seed(0)))))


def test_the_shrunk_loss_reaches_features_and_auxiliary_head_but_not_the_main_head():
    method = ShrinkMatch(threshold=0.5, use_da=False)
    model, ctx = prepared(method)
    with torch.no_grad():
        model.head.weight.mul_(6.0)
    seen = method.views(model, batch(), ctx)
    model.head.weight.grad = None
    certain = torch.zeros(len(seen.weak), dtype=torch.bool)
    loss = method.extra(model, seen, certain, ctx)
    assert float(loss.detach()) == 0.0  # the running share of certain samples starts at the first batch's: none
    model.get_submodule(STATE).ratio.fill_(1.0)
    method.extra(model, seen, certain, ctx).backward()
    assert model.head.weight.grad is None
    assert float(model.blocks[0].linear.weight.grad.abs().sum()) > 0
    assert float(model.get_submodule(STATE).aux[0].weight.grad.abs().sum()) > 0


def test_with_all_samples_certain_it_is_fixmatch():
    settings = {"threshold": 0.11, "use_da": False}
    losses = []
    for method in (FixMatch(**settings), ShrinkMatch(**settings)):
        model, ctx = prepared(method)
        losses.append(float(method.loss(model, batch(), ctx).detach()))
    assert losses[0] == losses[1]


def test_alignment_divides_by_the_mean_of_the_last_batches():
    model, _ = prepared(FixMatch(da_len=3))
    state, batches = model.get_submodule(STATE), [draw(8, 10, seed=i).softmax(1).float() for i in range(5)]
    for place, probabilities in enumerate(batches):
        mean = torch.stack([b.mean(0) for b in batches[max(0, place - 2) : place + 1]]).mean(0)
        expected = probabilities / mean
        assert torch.allclose(state.aligned(probabilities), expected / expected.sum(1, keepdim=True), atol=1e-6)


def test_the_average_lags_one_step_and_is_what_is_evaluated_and_kept():
    method = ShrinkMatch(ema_model=0.5, ema_ratio=0.5)
    run = wb.train(TASK, method, recipe=RECIPE, probes=())
    trained, kept = run.tensors("trained"), run.tensors()
    assert set(kept) == set(TASK.model(0).state_dict())
    name = "blocks.0.linear.weight"
    assert torch.equal(kept[name], trained[f"{STATE}.model.{name}"]) and not torch.equal(kept[name], trained[name])
    assert torch.equal(kept["blocks.0.norm.running_mean"], trained[f"{STATE}.model.blocks.0.norm.running_mean"])
    model, inputs = wb.restore(run), TASK.data(0)["test"].tensors
    accuracy = float((model(inputs[0]).argmax(1) == inputs[1]).float().mean())
    assert run.final("accuracy") == pytest.approx(accuracy)


def test_a_run_records_how_unlabelled_samples_are_used():
    run = wb.train(TASK, ShrinkMatch(threshold=0.4, ema_ratio=0.5), recipe=RECIPE)
    names = set(run.metrics["name"])
    assert {"certain", "shrunk", "shrunk_count", "shrunk_right", "shrunk_kept"} <= names
    frame = run.probe("method.shrinkmatch")
    total = frame.groupby("step")["value"].sum()
    assert len(total) and total.to_numpy() == pytest.approx(1.0)
    counts = {
        n: run.metrics[run.metrics["name"] == n]["value"].sum() for n in ("shrunk_right", "shrunk_kept", "shrunk_count")
    }
    assert counts["shrunk_right"] <= counts["shrunk_kept"] <= counts["shrunk_count"]


def test_the_contract_on_a_model_with_features_and_head():
    x, y = torch.randn(40, 8, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 5

    def model():
        torch.manual_seed(0)
        return MLP((8, 16, 5), norm=nn.BatchNorm1d)

    check_method(
        ShrinkMatch, model=model, batch=(x, y), method=ShrinkMatch(mu=1), splits={"unlabelled": TensorSplit(x, x + 0.1)}
    )


def test_bad_input_is_refused_by_name():
    with pytest.raises(FitError, match="needs a method features"):
        wb.train(wb.Task.from_arrays(torch.randn(20, 4), torch.arange(20) % 4, model=nn.Linear(4, 4)), ShrinkMatch())
    two = MLP((4, 8, 2))
    with pytest.raises(FitError, match=r"needs at least 3 classes \(C=2 leaves nothing to remove\)"):
        ShrinkMatch().prepare(two)
    with pytest.raises(FitError, match="threshold=0.2 is not allowed with 4 classes"):
        ShrinkMatch(threshold=0.2).prepare(MLP((4, 8, 4)))
    with pytest.raises(DataError, match="unlabelled"):
        wb.train("digits", ShrinkMatch(), scale="smoke", probes=())
    with pytest.raises(CompositionError, match="brings the loss"):
        wb.train(TASK, [ShrinkMatch(), FixMatch()])
    with pytest.raises(KnobError, match="labels_per_class=90 is too many"):
        wb.tasks.Digits(labels_per_class=90, train_size=200).data(0)


def test_few_labels_are_balanced_and_views_are_drawn_anew():
    splits = TASK.data(3)
    labels = splits["train"].held.tensors[1]
    assert labels.bincount().tolist() == [2] * 10 and len(splits["unlabelled"]) == 300
    stream = splits["unlabelled"].batches(50, torch.Generator().manual_seed(0))
    weak, strong, truth = next(stream)
    assert weak.shape == strong.shape == (50, 1, 8, 8) and truth.shape == (50,) and not torch.equal(weak, strong)
    again = next(splits["unlabelled"].batches(50, torch.Generator().manual_seed(0)))
    assert all(torch.equal(a, b) for a, b in zip((weak, strong, truth), again, strict=True))


def test_shifts_move_images_whole_and_strong_views_blank_a_square():
    images = torch.rand(200, 1, 8, 8, generator=torch.Generator().manual_seed(0)) + 0.1
    moved = shifted(images, torch.Generator().manual_seed(1))
    candidates = [
        nn.functional.pad(images, (1, 1, 1, 1))[..., down : down + 8, right : right + 8]
        for down in range(3)
        for right in range(3)
    ]
    matches = torch.stack([(moved == one).flatten(1).all(1) for one in candidates])
    assert matches.any(0).all() and matches.any(1).all()
    blank = (distorted(images, torch.Generator().manual_seed(2)) == 0).flatten(1).sum(1)
    assert (blank == 9).all()
