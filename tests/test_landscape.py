"""The loss landscape against a quadratic, and that nothing of the model is left changed."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from wbench.errors import FitError, KnobError
from wbench.probes import filter_normalized, landscape, random_direction


def quadratic(model: nn.Module) -> Tensor:
    return sum(param.double().square().sum() for param in model.parameters())  # type: ignore[return-value]


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))


def bits(model: nn.Module) -> dict[str, bytes]:
    return {name: tensor.detach().numpy().tobytes() for name, tensor in model.state_dict().items()}


def test_one_dimension_of_a_quadratic_is_the_parabola() -> None:
    model = nn.Linear(5, 4).double()
    direction = {"weight": torch.randn(4, 5).double(), "bias": torch.randn(4).double()}
    frame = landscape(model, quadratic, directions=direction, normalize="none", points=11, span=2.0)
    w, b = model.weight.detach(), model.bias.detach()
    for row in frame.itertuples():
        exact = (w + row.alpha * direction["weight"]).square().sum() + (
            b + row.alpha * direction["bias"]
        ).square().sum()
        assert row.loss == pytest.approx(float(exact), rel=1e-12)
    assert frame["alpha"].tolist() == np.linspace(-2, 2, 11).tolist()
    assert set(frame["beta"]) == {0.0}


def test_two_dimensions_of_a_quadratic_are_its_quadratic_form() -> None:
    model = nn.Linear(5, 4, bias=False).double()
    d, e = ({"weight": torch.randn(4, 5).double()} for _ in range(2))
    frame = landscape(model, quadratic, directions=[d, e], normalize="none", dims=2, points=5, span=1.5)
    assert len(frame) == 25
    for row in frame.itertuples():
        at = model.weight.detach() + row.alpha * d["weight"] + row.beta * e["weight"]
        assert row.loss == pytest.approx(float(at.square().sum()), rel=1e-12)


def test_a_filter_normalised_direction_has_the_norm_of_each_filter() -> None:
    weight, direction = torch.randn(8, 3, 3, 3), torch.randn(8, 3, 3, 3)
    weight[2] = 0.0
    direction[5] = 0.0
    scaled = filter_normalized(direction, weight)
    norms = scaled.flatten(1).norm(dim=1)
    expected = weight.flatten(1).norm(dim=1)
    expected[5] = 0.0
    torch.testing.assert_close(norms, expected)
    torch.testing.assert_close(scaled[0] / scaled[0].norm(), direction[0] / direction[0].norm())
    assert not filter_normalized(torch.randn(4), torch.randn(4)).any()


def test_biases_and_norms_are_not_moved_by_a_normalised_direction() -> None:
    model, seen = net(), []

    def look(m: nn.Module) -> float:
        seen.append({name: param.detach().clone() for name, param in m.named_parameters()})
        return 0.0

    landscape(model, look, points=3)
    for name in ("0.bias", "1.weight", "1.bias", "4.bias"):
        assert all(torch.equal(seen[0][name], at[name]) for at in seen)
    assert not torch.equal(seen[0]["0.weight"], seen[1]["0.weight"])


def test_the_centre_is_the_model_bit_for_bit_and_the_step_is_one_filter_norm() -> None:
    model, seen = net(), []
    landscape(model, lambda m: seen.append(m[0].weight.detach().clone()) or 0.0, points=3, span=0.5)
    assert torch.equal(seen[1], model[0].weight)
    moved = (seen[2] - seen[1]).norm(dim=1)
    torch.testing.assert_close(moved, 0.5 * model[0].weight.detach().norm(dim=1))


@pytest.mark.parametrize("training", [True, False])
def test_parameters_buffers_modes_and_random_state_come_back_bit_for_bit(training: bool) -> None:
    model = net().train(training)
    model[1].eval()  # a mode of its own
    with torch.no_grad():
        model[4].bias[0] = -0.0
    inputs = torch.randn(16, 6)
    before, random, modes = bits(model), torch.get_rng_state(), [module.training for module in model.modules()]
    objects = [id(tensor) for tensor in (*model.parameters(), *model.buffers())]

    def loss(m: nn.Module) -> Tensor:
        m.train()  # a careless loss: changes modes and, by the batch norm, buffers
        return m(inputs).square().mean()

    landscape(model, loss, dims=2, points=3)
    assert bits(model) == before
    assert torch.equal(random, torch.get_rng_state())
    assert [module.training for module in model.modules()] == modes
    assert [id(tensor) for tensor in (*model.parameters(), *model.buffers())] == objects
    assert all(param.grad is None for param in model.parameters())


def test_everything_comes_back_when_the_loss_raises() -> None:
    model = net().eval()
    before, random, calls = bits(model), torch.get_rng_state(), []

    def loss(m: nn.Module) -> float:
        calls.append(1)
        m.train()
        m[1].running_mean = torch.full((8,), 7.0)  # even a buffer that was replaced
        m(torch.randn(4, 6))
        if len(calls) == 3:
            raise RuntimeError("out of luck")
        return 0.0

    with pytest.raises(RuntimeError, match="out of luck"):
        landscape(model, loss, points=5)
    assert bits(model) == before
    assert torch.equal(random, torch.get_rng_state())
    assert not any(module.training for module in model.modules())


def test_each_point_sees_the_same_buffers_and_the_same_dropout() -> None:
    model = net().train()
    inputs, still = torch.randn(16, 6), {name: torch.zeros_like(param) for name, param in net().named_parameters()}
    frame = landscape(model, lambda m: m(inputs).square().mean(), directions=still, normalize="none", points=5)
    assert frame["loss"].nunique() == 1


def test_a_loss_that_is_not_finite_is_a_row() -> None:
    values = iter([1.0, float("nan"), float("inf")])
    frame = landscape(nn.Linear(2, 2), lambda m: next(values), points=3)
    assert frame["loss"].tolist()[0] == 1.0
    assert np.isnan(frame["loss"][1])
    assert np.isinf(frame["loss"][2])


def test_no_graph_is_built() -> None:
    tracked = []
    landscape(nn.Linear(2, 2), lambda m: tracked.append(m(torch.ones(1, 2)).requires_grad) or 0.0, points=3)
    assert tracked == [False] * 3


def test_same_seed_same_bits_and_two_axes_differ() -> None:
    model, inputs = net().eval(), torch.randn(16, 6)
    model = copy.deepcopy(model)
    runs = [landscape(model, lambda m: m(inputs).square().mean(), dims=2, points=3, seed=seed) for seed in (1, 1, 2)]
    assert runs[0].equals(runs[1])
    assert not runs[0].equals(runs[2])
    table = runs[0].pivot(index="beta", columns="alpha", values="loss").to_numpy()
    assert not np.allclose(table, table.T)
    assert random_direction(model, 3)["0.weight"].equal(random_direction(model, 3)["0.weight"])


def test_a_centre_of_its_own_is_the_origin() -> None:
    model = nn.Linear(3, 3, bias=False)
    before = bits(model)
    frame = landscape(model, quadratic, center={"weight": torch.zeros(3, 3)}, directions={"weight": torch.eye(3)}, normalize="none", points=3)  # fmt: skip
    assert frame["loss"].tolist() == [3.0, 0.0, 3.0]
    assert bits(model) == before


def test_the_line_between_two_models_ends_in_both() -> None:
    one, two = nn.Linear(4, 4), nn.Linear(4, 4)
    step = {name: two.state_dict()[name] - tensor for name, tensor in one.state_dict().items()}
    frame = landscape(one, quadratic, directions=step, normalize="none", points=3)
    assert frame["loss"].tolist()[1:] == pytest.approx(
        [float(quadratic(one).detach()), float(quadratic(two).detach())], rel=1e-5
    )


def test_of_a_parametrised_layer_the_raw_parameter_moves() -> None:
    class Double(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return 2.0 * weight

    model = nn.Linear(3, 2, bias=False)
    parametrize.register_parametrization(model, "weight", Double())
    raw = model.parametrizations.weight.original.detach().clone()
    move = {"parametrizations.weight.original": torch.ones(2, 3)}
    frame = landscape(model, lambda m: m.weight.sum(), directions=move, normalize="none", points=3)
    assert frame["loss"].tolist() == pytest.approx([float(2 * (raw + a).sum()) for a in (-1, 0, 1)], abs=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dims": 3}, "dims=3"),
        ({"points": 4}, "odd number"),
        ({"points": 1}, "odd number"),
        ({"span": 0.0}, "span=0.0"),
        ({"normalize": "layer"}, "allowed: filter, none"),
        ({"directions": "pca"}, "allowed: random, or tensors"),
        ({"directions": {}, "dims": 2}, "1 directions were given for dims=2"),
    ],
)
def test_options_that_are_not_allowed_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(KnobError, match=message):
        landscape(nn.Linear(2, 2), quadratic, **options)  # type: ignore[arg-type]


def test_directions_and_losses_that_do_not_fit_are_refused() -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(FitError, match="'wieght' is no parameter of the model. Did you mean weight"):
        landscape(model, quadratic, directions={"wieght": torch.ones(2, 2)})
    with pytest.raises(FitError, match=r"'weight' has shape \(3, 2\); the model's has \(2, 2\)"):
        landscape(model, quadratic, directions={"weight": torch.ones(3, 2)})
    with pytest.raises(FitError, match=r"the loss has shape \(5, 2\); it must be one number"):
        landscape(model, lambda m: m(torch.ones(5, 2)))
