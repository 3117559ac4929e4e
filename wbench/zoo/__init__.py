"""Folders of models fine-tuned from one base: what population methods work on."""

from wbench.zoo.zoo import Zoo

__all__ = ["Zoo"]
