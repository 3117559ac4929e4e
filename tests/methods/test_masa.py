"""Matrix atom sharing against the dense model, closed forms, and decompositions of torch and scikit-learn."""

import pytest
import torch
from torch import nn

import wbench as wb
from wbench.errors import FitError, KnobError
from wbench.method import Context
from wbench.methods.layer.low_rank import LowRank
from wbench.methods.layer.masa import MASA, one_hot
from wbench.methods.layer.shared_linear import Dictionary, SharedLinear
from wbench.methods.transform.low_rank_trained import LowRankTrained
from wbench.methods.transform.masa_trained import MASATrained, cut
from wbench.models import GPT, ViT
from wbench.ops.allocate import greedy
from wbench.ops.sharing import matrix_pca, whitened_svd, whitening
from wbench.splits import Splits, TensorSplit
from wbench.testing import check_method

F64 = torch.float64
TOKENS = torch.randint(20, (16, 8), generator=torch.Generator().manual_seed(1))


def gpt(depth=6, seed=0):
    torch.manual_seed(seed)
    return GPT(20, 8, depth, 16, 2, 2)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def context():
    return Context(splits=Splits(train=TensorSplit(TOKENS, TOKENS)))


def layers_of(model, kind="q"):
    return [model.blocks[place].attn.get_submodule(kind) for place in range(len(model.blocks))]


@pytest.mark.parametrize(
    "method",
    [
        MASA(n_atoms=2), MASA(coef="free", share_types=True), MASATrained(keep=0.6),
        LowRank(layers="blocks.*.attn.*", rank=3), LowRankTrained(keep=0.5),
    ],
)  # fmt: skip
def test_contract(method):
    done = check_method(type(method), model=lambda: gpt(4), batch=(TOKENS, TOKENS.roll(-1, 1)), method=method)
    assert {"result", "round_trip", "deep_copy", "owners"} <= set(done)


def test_as_many_atoms_as_layers_is_the_dense_model_bit_for_bit():
    dense, shared = gpt(), MASA(n_atoms=6, coef="repeat").prepare(gpt())
    assert torch.equal(shared(TOKENS), dense(TOKENS))


def test_one_atom_with_coefficients_of_one_ties_all_layers():
    model = MASA(n_atoms=1, coef="repeat").prepare(gpt())
    weights = [layer.weight for layer in layers_of(model)]
    assert all(torch.equal(weight, weights[0]) for weight in weights)
    assert model.masa["q0"].atoms.shape == (1, 16, 16)


@pytest.mark.parametrize("coef", ["mlp", "free"])
def test_parameters_after_finishing_are_atoms_and_coefficients(coef):
    method = MASA(n_atoms=2, coef=coef)
    model = method.prepare(gpt())
    before = model(TOKENS)
    model = method.finish(model)
    assert torch.equal(model(TOKENS), before)  # the network is dropped, the function stays to the bit
    numbers = sum(value.numel() for value in model.masa.parameters())
    assert numbers == 4 * (2 * 16 * 16 + 6 * 2)
    dense = sum(layer.weight.numel() for kind in "qkvo" for layer in layers_of(gpt(), kind))
    assert numbers / dense == pytest.approx(1 / 3, abs=0.01)


def test_the_start_has_the_deviation_of_the_dense_one():
    for coef in ("mlp", "free"):
        model = MASA(n_atoms=2, coef=coef).prepare(gpt())
        rows = model.masa["q0"].rows()
        assert float(rows.square().sum(1).mean().detach()) == pytest.approx(1.0, abs=1e-5 if coef == "mlp" else 1.0)


def test_gradients_are_the_formulas():
    owner = Dictionary(normal(2, 5, 4), normal(3, 2, seed=1))
    upstream = normal(3, 5, 4, seed=2)
    sum((owner(place) * upstream[place]).sum() for place in range(3)).backward()
    assert torch.allclose(
        owner.atoms.grad, torch.einsum("ls,loi->soi", owner.coefficients.detach(), upstream), atol=1e-12
    )
    assert torch.allclose(
        owner.coefficients.grad, torch.einsum("soi,loi->ls", owner.atoms.detach(), upstream), atol=1e-12
    )


def test_a_change_of_basis_leaves_every_weight():
    atoms, rows, basis = normal(3, 5, 4), normal(6, 3, seed=1), normal(3, 3, seed=2)
    one = Dictionary(atoms, rows)
    other = Dictionary(torch.einsum("soi,st->toi", atoms, basis), rows @ torch.linalg.inv(basis).T)
    assert all(torch.allclose(one(place), other(place), atol=1e-12) for place in range(6))


def test_only_atoms_decay():
    model = MASA().prepare(gpt())
    (group,) = MASA().param_groups(model)
    held = {id(param) for param in group["params"]}
    assert group["weight_decay"] == 0.0
    assert all((id(param) in held) != name.endswith("atoms") for name, param in model.masa.named_parameters())


def test_matrix_pca_is_the_best_of_its_size():
    weights = normal(6, 7, 5)
    values = torch.linalg.svdvals(weights.flatten(1))
    for count in range(1, 7):
        atoms, rows, found = matrix_pca(weights, count)
        flat = atoms.flatten(1)
        error = (weights - torch.tensordot(rows, atoms, 1)).square().sum()
        assert torch.allclose(error, values[count:].square().sum(), rtol=1e-10, atol=1e-20)
        assert torch.allclose(flat @ flat.T, torch.eye(count, dtype=F64), atol=1e-10)
        assert torch.allclose(found, values)
        tied = one_hot(6, count, "sequential").double()
        means = torch.linalg.pinv(tied) @ weights.flatten(1)
        assert error <= (weights.flatten(1) - tied @ means).square().sum() + 1e-12


def test_layers_that_differ_little_or_not_at_all_have_orthonormal_atoms_in_single_precision():
    same = normal(1, 8, 8).expand(6, 8, 8)
    for weights in (same, same + 1e-3 * normal(6, 8, 8, seed=1)):
        atoms, rows, _ = matrix_pca(weights.float(), 2)
        flat = atoms.flatten(1)
        assert torch.allclose(flat @ flat.T, torch.eye(2), atol=1e-5)
        if weights is same:
            assert torch.allclose(torch.tensordot(rows, atoms, 1), weights.float(), atol=1e-5)


@pytest.mark.parametrize("count", [200, 4])
def test_the_rest_is_the_best_of_its_rank_on_the_calibration_inputs(count):
    x, matrix = normal(count, 8) @ normal(8, 8, seed=1), normal(6, 8, seed=2)
    up, _, down = whitened_svd(matrix, whitening(x, eps=1e-12))
    plain = torch.linalg.svd(matrix, full_matrices=False)
    best = torch.linalg.svdvals(x @ matrix.T)
    for rank in (1, 2, 3):
        error = (x @ (matrix - up[:, :rank] @ down[:rank]).T).norm()
        other = (x @ (matrix - plain.U[:, :rank] * plain.S[:rank] @ plain.Vh[:rank]).T).norm()
        assert error <= other + 1e-9
        assert float(error) == pytest.approx(float(best[rank:].norm()), rel=1e-4, abs=1e-3)
    assert torch.allclose(up @ down, matrix, atol=1e-6)


def test_ranks_go_where_the_gain_for_its_cost_is_largest():
    spectra = {"a": torch.tensor([4.0, 1.0]), "b": torch.tensor([3.0, 2.0])}
    assert greedy(spectra, {"a": 1, "b": 1}, 3) == {"a": 1, "b": 2}
    assert greedy(spectra, {"a": 10, "b": 1}, 12) == {"a": 1, "b": 2}
    assert greedy(spectra, {"a": 10, "b": 1}, 11) == {"a": 0, "b": 2}
    assert greedy(spectra, {"a": 1, "b": 1}, 0) == {"a": 0, "b": 0}


def test_groups_are_cut_at_the_largest_drift_and_hold_two_layers_at_least():
    assert cut([9.0, 1.0, 5.0, 1.0, 1.0], 2) == [3, 3]
    assert cut([1.0, 8.0, 1.0, 7.0, 1.0], 3) == [2, 2, 2]
    assert cut([1.0, 1.0], 2) == [3]


@pytest.mark.parametrize("groups", [1, 2])
def test_a_trained_model_is_kept_exactly_at_full_budget_and_within_its_budget_below(groups):
    model = gpt().double()
    full = MASATrained(groups=groups, n_atoms=6 // groups if groups == 1 else 2, keep=1.0, residual_rank=0.0)
    dense = model(TOKENS)
    if groups == 1:
        assert torch.allclose(full.finish(gpt().double(), context())(TOKENS), dense, atol=1e-10)
    method = MASATrained(groups=groups, keep=0.6)
    model = method.finish(model, context())
    layers = [layer for kind in "qkvo" for layer in layers_of(model, kind)]
    numbers = sum(p.numel() for p in model.masa.parameters()) + sum(
        factor.numel() for layer in layers if layer.up is not None for factor in (layer.up, layer.down)
    )
    assert 0.57 <= numbers / (24 * 256) <= 0.6 and all(isinstance(layer, SharedLinear) for layer in layers)
    assert len(model.masa) == 4 * groups
    again = method.restore(gpt(seed=5).double(), model.state_dict())
    assert torch.equal(again(TOKENS), model(TOKENS))


def test_the_drifts_are_read_from_a_vision_transformer_too():
    images = torch.randn(10, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    ctx = Context(splits=Splits(train=TensorSplit(images, torch.zeros(10, dtype=torch.long))))
    model = MASATrained().finish(ViT(1, 8, 10, 4, 4, 16, 2), ctx)
    assert len(model.masa) == 8 and torch.isfinite(model(images)).all()


def test_a_run_compresses_a_trained_run_and_comes_back():
    task = wb.tasks.Chars(shape=(4, 16, 2, 2), context=16)
    base = wb.train(task, recipe=task.recipe("smoke").replace(steps=2, warmup=0), seed=0, probes=())
    recipe = task.recipe("smoke").replace(steps=0, warmup=0)
    run = wb.train(task, [MASATrained()], recipe=recipe, seed=0, start=base)
    frame = run.probe("method.masa_trained")
    assert set(frame["what"]) == {"coefficient", "spectrum"} and wb.plots.sharing(frame).data
    assert wb.restore(run).masa["q1"].coefficients.shape[0] >= 2


def test_the_shape_of_the_gpt_is_an_option():
    model = wb.tasks.Chars(shape=(3, 24, 2, 2)).model(0)
    assert (len(model.blocks), model.head.in_features, model.blocks[0].mlp.fc1.out_features) == (3, 24, 48)
    with pytest.raises(KnobError, match="depth, width, heads and feed-forward ratio"):
        wb.tasks.Chars(shape=(3, 24)).model(0)


def test_what_does_not_fit_is_refused():
    with pytest.raises(FitError, match=r"n_atoms must be between 1 and the number of layers \(6\), got 7"):
        MASA(n_atoms=7).prepare(gpt())
    with pytest.raises(KnobError, match="n_atoms"):
        MASA(n_atoms=0)
    odd = gpt()
    odd.blocks[2].attn.k = nn.Linear(16, 8)
    with pytest.raises(
        FitError, match=r"'blocks.0.attn.k' \(16, 16\) and 'blocks.2.attn.k' \(8, 16\) have different shapes for k"
    ):
        MASA().prepare(odd)
    with pytest.raises(FitError, match="no linear layers named q, k, v, o"):
        MASA().prepare(nn.Sequential(nn.Linear(4, 4)))
    with pytest.raises(FitError, match="2 layers of 6 blocks"):
        MASATrained(layers=("blocks.0.*", "blocks.1.*"), groups=2).finish(gpt(), context())
    with pytest.raises(FitError, match=r"rank=17 exceeds 16.*'blocks.0.attn.q' 16 x 16"):
        LowRank(layers="blocks.*.attn.*", rank=17).prepare(gpt())
