"""The small models, with named slots that methods can reach."""

from wbench.models.attention import Attention, AttentionCore, Feedforward, TransformerBlock
from wbench.models.convnet import ConvNet
from wbench.models.gpt import GPT
from wbench.models.mlp import MLP
from wbench.models.ngram import NGram
from wbench.models.resnet import ResNet
from wbench.models.vit import ViT

__all__ = [
    "GPT",
    "MLP",
    "Attention",
    "AttentionCore",
    "ConvNet",
    "Feedforward",
    "NGram",
    "ResNet",
    "TransformerBlock",
    "ViT",
]
