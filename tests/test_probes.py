"""Histograms and spectra against NumPy and SciPy in float64, and what a probe takes as its source."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from scipy import stats
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from wbench import probes
from wbench.errors import CheckpointError, DataError, KnobError, LayerMatchError


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(32, 10))


def of(frame: pd.DataFrame, layer: str) -> pd.DataFrame:
    return frame[frame["layer"] == layer].reset_index(drop=True)


def test_histogram_counts_are_numpys_and_the_density_integrates_to_one() -> None:
    model = net()
    frame = of(probes.histogram(model, bins=37), "0")
    counts, edges = np.histogram(model[0].weight.detach().double().numpy(), 37)
    assert frame["count"].tolist() == counts.tolist()
    np.testing.assert_allclose(frame["bin_left"], edges[:-1])
    np.testing.assert_allclose(frame["bin_right"], edges[1:])
    assert (frame["density"] * (frame["bin_right"] - frame["bin_left"])).sum() == pytest.approx(1.0)
    assert set(frame["shape"]) == {"8 x 3 x 3 x 3"}


def test_histogram_statistics_are_scipys() -> None:
    values = torch.distributions.StudentT(5.0).sample((200, 50))
    frame = probes.histogram({"w": values})
    wide = values.double().numpy().ravel()
    row = frame.iloc[0]
    assert row["std"] == pytest.approx(wide.std(), rel=1e-9)
    assert row["kurtosis"] == pytest.approx(stats.kurtosis(wide, fisher=False), rel=1e-9)
    assert row["max_z"] == pytest.approx(np.abs(wide).max() / wide.std(), rel=1e-9)
    assert row["near_zero_share"] == pytest.approx((np.abs(wide) < 0.1 * wide.std()).mean(), rel=1e-9)


def test_values_outside_given_edges_are_in_no_bin_but_count_in_the_density() -> None:
    frame = probes.histogram({"w": torch.arange(10.0).view(2, 5)}, bins=[0.0, 2.0, 5.0])
    assert frame["count"].tolist() == [2, 4]  # 0, 1 and, the last edge being closed, 2 to 5
    np.testing.assert_allclose(frame["density"], [2 / 10 / 2, 4 / 10 / 3])


@pytest.mark.parametrize("value", [0.0, 0.3, -1e6, 1e-30])
@pytest.mark.parametrize("spread", [0.0, 1e-16])
def test_a_constant_tensor_has_bins_of_some_width_and_no_false_statistics(value: float, spread: float) -> None:
    tensor = torch.full((4, 5), value, dtype=torch.float64)
    tensor[0, 0] *= 1 + spread
    frame = probes.histogram({"w": tensor}, bins=11)
    assert (frame["bin_right"] > frame["bin_left"]).all()
    assert frame["count"].sum() == 20
    assert frame["std"].iloc[0] == 0.0
    assert frame[["near_zero_share", "max_z", "kurtosis"]].isna().all().all()


@pytest.mark.parametrize("bins", [0, -3, [1.0], [1.0, 1.0], [2.0, 1.0]])
def test_bins_that_give_no_bin_are_refused(bins: object) -> None:
    with pytest.raises(KnobError, match="bins="):
        probes.histogram({"w": torch.ones(2, 2)}, bins=bins)  # type: ignore[arg-type]


def test_biases_and_norms_are_counted_only_on_request_and_under_their_own_names() -> None:
    model = net()
    assert set(probes.histogram(model)["layer"]) == {"0", "4"}
    every = probes.histogram(model, weights_only=False)
    assert set(every["layer"]) == {"0", "0.bias", "1", "1.bias", "4", "4.bias"}
    assert of(every, "4.bias")["count"].sum() == 10


@pytest.mark.parametrize("shape", [(30, 50), (50, 30), (8, 3, 3, 3), (1, 7), (7, 1)])
def test_spectrum_is_numpys_in_float64(shape: tuple[int, ...]) -> None:
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    frame = probes.spectrum({"layer.weight": tensor})
    matrix = tensor.double().numpy().reshape(shape[0], -1)
    values = np.linalg.svd(matrix, compute_uv=False)
    np.testing.assert_allclose(frame["singular_value"], values, rtol=1e-5, atol=1e-6 * values[0])
    np.testing.assert_allclose(frame["energy"], np.cumsum(values**2) / (values**2).sum(), rtol=1e-5)
    row = frame.iloc[0]
    assert frame["index"].tolist() == list(range(1, min(matrix.shape) + 1))
    assert (row["rows"], row["cols"]) == matrix.shape
    assert row["stable_rank"] == pytest.approx(np.linalg.norm(matrix) ** 2 / np.linalg.norm(matrix, 2) ** 2, rel=1e-5)
    assert row["effective_rank"] == pytest.approx(np.exp(stats.entropy(values)), rel=1e-5)
    assert row["frobenius_norm"] == pytest.approx(np.linalg.norm(matrix), rel=1e-5)


def test_ranks_in_closed_form() -> None:
    eye = probes.spectrum({"w": 3.0 * torch.eye(12)}).iloc[0]
    assert eye["stable_rank"] == pytest.approx(12)
    assert eye["effective_rank"] == pytest.approx(12)
    one = probes.spectrum({"w": torch.outer(torch.arange(1.0, 5.0), torch.ones(6)).double()}).iloc[0]
    assert one["stable_rank"] == pytest.approx(1)
    assert one["effective_rank"] == pytest.approx(1)


def test_a_zero_matrix_has_rank_zero_and_no_nan() -> None:
    frame = probes.spectrum({"w": torch.zeros(4, 6)})
    assert len(frame) == 4
    assert not frame.isna().any().any()
    assert (frame[["stable_rank", "effective_rank", "frobenius_norm", "energy"]] == 0).all().all()


def test_squares_out_of_range_do_not_disturb_the_ranks() -> None:
    tensor = torch.randn(10, 10, dtype=torch.float64)
    plain = probes.spectrum({"w": tensor}).iloc[0]
    for scale in (1e-200, 1e200):
        frame = probes.spectrum({"w": tensor * scale})
        assert frame.iloc[0]["stable_rank"] == pytest.approx(plain["stable_rank"])
        assert frame.iloc[0]["frobenius_norm"] == pytest.approx(plain["frobenius_norm"] * scale)
        assert frame["energy"].iloc[-1] == pytest.approx(1.0)


def test_ranks_are_of_all_values_however_many_rows_are_returned() -> None:
    tensor = {"w": torch.randn(40, 40)}
    few, every = probes.spectrum(tensor, max_values=5), probes.spectrum(tensor)
    assert len(few) == 5
    pd.testing.assert_frame_equal(few, every.head(5))
    with pytest.raises(KnobError, match="max_values=0"):
        probes.spectrum(tensor, max_values=0)


@pytest.mark.parametrize("probe", [probes.histogram, probes.spectrum], ids=["histogram", "spectrum"])
def test_a_model_its_weights_by_name_and_its_checkpoint_give_one_table(
    probe: Callable[..., pd.DataFrame], tmp_path: Path
) -> None:
    model = net()
    state = {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    save_file(state, tmp_path / "m.safetensors")
    torch.save(model.state_dict(), tmp_path / "m.pt")
    frame = probe(model)
    for source in (model.state_dict(), tmp_path / "m.safetensors", str(tmp_path / "m.pt")):
        pd.testing.assert_frame_equal(probe(source).sort_values(["layer"], kind="stable", ignore_index=True), frame)


def test_a_parametrised_layer_shows_the_weight_that_its_forward_uses() -> None:
    linear = parametrizations.spectral_norm(nn.Linear(20, 10), n_power_iterations=30)
    linear.eval()
    frame = probes.spectrum(nn.Sequential(linear))
    assert set(frame["layer"]) == {"0"}
    assert frame["singular_value"].iloc[0] == pytest.approx(1.0, abs=1e-3)
    values = np.linalg.svd(linear.weight.detach().numpy(), compute_uv=False)
    np.testing.assert_allclose(frame["singular_value"], values, rtol=1e-4)


def test_a_parametrisation_with_weights_of_its_own_adds_no_layer() -> None:
    class Add(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shift = nn.Parameter(torch.ones(4, 6))

        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            return weight + self.shift

    model = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 4))
    parametrize.register_parametrization(model[0], "weight", Add())
    frame = probes.histogram(model)
    assert list(dict.fromkeys(frame["layer"])) == ["0", "1"]
    used = model[0].weight.detach()
    assert of(frame, "0")["bin_right"].max() == pytest.approx(float(used.max()))


def test_tied_tensors_are_measured_once_under_their_first_name() -> None:
    model = nn.ModuleDict({"embed": nn.Embedding(9, 4), "head": nn.Linear(4, 9, bias=False)})
    model["head"].weight = model["embed"].weight
    assert set(probes.spectrum(model)["layer"]) == {"embed"}
    assert set(probes.spectrum(model.state_dict())["layer"]) == {"embed"}


def test_a_layer_with_several_matrices_gets_a_name_for_each() -> None:
    model = nn.ModuleDict({"rnn": nn.LSTM(3, 5)})
    assert set(probes.spectrum(model)["layer"]) == {"rnn.weight_ih_l0", "rnn.weight_hh_l0"}
    assert set(probes.spectrum(model.state_dict())["layer"]) == {"rnn.weight_ih_l0", "rnn.weight_hh_l0"}
    assert set(probes.snapshot(model)) == {"rnn.weight_ih_l0", "rnn.weight_hh_l0"}


def test_parameters_of_the_model_itself_are_layers() -> None:
    linear = nn.Linear(3, 2)
    linear.extra = nn.Parameter(torch.ones(2, 2))
    assert (
        set(probes.spectrum(linear)["layer"])
        == {"weight", "extra"}
        == set(probes.spectrum(linear.state_dict())["layer"])
    )


def test_layers_are_chosen_by_glob_and_a_miss_names_the_closest() -> None:
    model = nn.ModuleDict({f"block{index}": nn.ModuleDict({"linear": nn.Linear(4, 4)}) for index in range(3)})
    assert set(probes.spectrum(model, layers="block[01].*")["layer"]) == {"block0.linear", "block1.linear"}
    with pytest.raises(LayerMatchError, match=r"layers='block1.liner' matches no layer.*Did you mean block1.linear"):
        probes.histogram(model, layers="block1.liner")


def test_layers_that_match_but_hold_no_matrix_give_an_empty_table_with_its_columns() -> None:
    frame = probes.spectrum(net(), layers="1")
    assert len(frame) == 0
    assert "stable_rank" in frame.columns
    assert "density" in probes.histogram(net(), layers="1").columns


def test_integers_are_left_out_and_half_precision_is_measured() -> None:
    source = {"q": torch.ones(4, 4, dtype=torch.int8), "h": torch.randn(4, 4).to(torch.bfloat16)}
    source["f8"] = torch.randn(4, 4).to(torch.float8_e4m3fn)
    for probe in (probes.histogram, probes.spectrum):
        assert set(probe(source)["layer"]) == {"h", "f8"}


@pytest.mark.parametrize("probe", [probes.histogram, probes.spectrum], ids=["histogram", "spectrum"])
def test_values_that_are_not_finite_are_refused_by_layer_or_skipped(
    probe: Callable[..., pd.DataFrame], tmp_path: Path
) -> None:
    model = net()
    with torch.no_grad():
        model[4].weight[0, :3] = float("inf")
    with pytest.raises(DataError, match="layer '4': weight holds 3 NaN or inf of 320 values"):
        probe(model)
    assert set(probe(model, nonfinite="skip")["layer"]) == {"0"}
    torch.save(model.state_dict(), tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match="'4.weight' holds 3 NaN or inf"):
        probe(tmp_path / "m.pt")
    assert set(probe(tmp_path / "m.pt", nonfinite="skip")["layer"]) == {"0"}
    with pytest.raises(KnobError, match="allowed: raise, skip"):
        probe(model, nonfinite="keep")


def test_a_source_of_another_kind_is_refused() -> None:
    with pytest.raises(DataError, match="given a list; allowed: a torch module"):
        probes.spectrum([torch.ones(2, 2)])  # type: ignore[arg-type]


def test_a_probe_changes_nothing_and_keeps_nothing_of_the_graph() -> None:
    model = net()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.get_rng_state()
    probes.histogram(model)
    probes.spectrum(model)
    kept = probes.snapshot(model)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())
    assert not any(tensor.requires_grad for tensor in kept.values())
    with torch.no_grad():
        model[4].weight.zero_()
    assert float(kept["4"].abs().sum()) > 0


def test_layers_are_chosen_as_methods_choose_them():
    from torch import nn

    from wbench import probes

    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3), nn.Linear(3, 2))
    for layers, found in (("0, 2", ["0", "2"]), (("*", "!2"), ["0", "3"]), ("[23]", ["2", "3"])):
        assert list(probes.spectrum(model, layers=layers)["layer"].unique()) == found
