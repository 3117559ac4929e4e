"""What follows each layer, read from a trace."""

import pytest
import torch
from torch import nn

from wbench.models import MLP, ConvNet, ResNet
from wbench.ops.graph import consumers, normalized_layers


def test_slots_functions_and_modules_are_told_apart(user_model):
    found = consumers(user_model)
    assert {name: c.kind for name, c in found.items()} == {
        "conv1": "activation",
        "conv2": "activation",
        "mix": "activation",
        "fc": "activation",
        "head": "other",
    }
    slots = consumers(MLP((8, 8, 4)))
    assert slots["blocks.0.linear"].slot == "blocks.0.norm" and slots["blocks.0.linear"].homogeneous
    assert not consumers(MLP((8, 8, 4), act=nn.GELU))["blocks.0.linear"].homogeneous


def test_rescaling_a_normalised_layer_does_not_change_the_function_and_others_do():
    torch.manual_seed(0)
    models = [
        MLP((8, 8, 8, 4), norm=nn.LayerNorm, bias=False),
        MLP((8, 8, 4), norm=nn.LayerNorm),
        ResNet(1, 4, (4, 8)),
        ConvNet(1, 8, 4, (4, 4), 8, norm=nn.BatchNorm2d),
    ]
    for model in models:
        x = torch.randn(16, 8) if isinstance(model, MLP) else torch.randn(16, 1, 8, 8)
        model.train()
        for module in model.modules():
            if hasattr(module, "eps"):
                module.eps = 1e-12
        invariant = normalized_layers(model.double())
        before = model(x.double()).detach()
        for name, layer in model.named_modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                with torch.no_grad():
                    layer.weight.mul_(2)
                    same = torch.allclose(model(x.double()), before, atol=1e-6)
                    layer.weight.div_(2)
                assert same is (name in invariant), name


def test_a_model_that_cannot_be_traced_has_no_known_layers():
    class Branch(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(2, 2)

        def forward(self, x):
            return self.fc(x) if x.sum() > 0 else x

    assert normalized_layers(Branch()) == set()
    with pytest.raises(RuntimeError, match="cannot be traced"):
        consumers(Branch())
