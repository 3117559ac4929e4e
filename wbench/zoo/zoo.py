"""A folder of models fine-tuned from one base, read when asked for."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from wbench.checkpoints import iter_tensors, shapes
from wbench.errors import CheckpointError, FitError, RunError, UnknownNameError, closest
from wbench.tasks import find_task
from wbench.training.restore import rebuild
from wbench.zoo.manifest import Entry, digest, read_manifest

if TYPE_CHECKING:
    import pandas as pd

    from wbench.recipe import Recipe
    from wbench.runs import Run, RunStore
    from wbench.task import Task
    from wbench.training.job import Methods


class Zoo(Mapping[str, nn.Module]):
    """Models by role, each read from its checkpoint when asked for, and not kept.

    Usage:
        `zoo = wb.Zoo.open("folder", model=pretrained)`, then
        `wb.train(task, wb.methods.OPCM(), members=zoo, references={"base": zoo.base})`

    Args:
        folder: Where the checkpoints lie.
        model: The base, with its weights; copied.
        members: What is known of each, by role.

    Attributes:
        folder: Where the checkpoints lie.
        members: What is known of each, by role.

    Raises:
        FitError: If a member's names or shapes differ from the base's; only headers are read for that.
        CheckpointError: If a file is damaged.
    """

    def __init__(self, folder: str | Path, model: nn.Module, members: Mapping[str, Entry]) -> None:
        self.folder, self.members = Path(folder), dict(members)
        self._model = copy.deepcopy(model).cpu().eval()
        self._identities: dict[str, str] = {}
        for role, entry in self.members.items():
            _fits(self.folder / entry.file, f"member '{role}'", self._model)

    @classmethod
    def open(cls, folder: str | Path, model: nn.Module | None = None) -> Zoo:
        """Open a folder: one that `Zoo.train` has made, or anybody's checkpoints of one architecture.

        Args:
            folder: With a manifest; or with one checkpoint a member, named by its role: `cars.safetensors` (or .pt, .pth, .bin), or a
                folder `cars` that holds one. A checkpoint named `base` holds the base's weights.
            model: The architecture. Its weights are the base's where the folder has none. Default: what the manifest names.

        Returns:
            The zoo.

        Raises:
            CheckpointError: If the folder is no zoo, or a file is damaged.
            FitError: If a member or the base does not fit the model; names the key and both shapes.
            RunError: If no model is given and none is known.
        """
        folder = Path(folder)
        base, members = read_manifest(folder)
        if model is None:
            if base is None or not base.task or base.task.get("id") == "user":
                raise RunError(f"{folder} does not say which model its checkpoints belong to; pass model=")
            options = {key: value for key, value in base.task.items() if key != "id"}
            model = rebuild(type(find_task(base.task["id"])), options).model(base.seed or 0)
        if base is not None:
            model = copy.deepcopy(model)
            path = folder / base.file
            _fits(path, "the base's checkpoint", model, "the model")
            _verify(path, base)
            _fill(model, path)
        return cls(folder, model, members)

    @classmethod
    def train(
        cls,
        members: Mapping[str, Task],
        folder: str | Path,
        *,
        base: Task | Run | None = None,
        methods: Methods | None = None,
        seed: int = 0,
        seeds: Mapping[str, int] | None = None,
        recipe: Recipe | None = None,
        base_recipe: Recipe | None = None,
        scale: str = "cpu",
        trainable: str | tuple[str, ...] | None = None,
        device: str | torch.device = "auto",
        store: RunStore | None = None,
        progress: bool = False,
    ) -> Zoo:
        """Train a base and fine-tune it to each task, or find those runs in the store, and write their weights to a folder.

        Args:
            members: Role to task.
            folder: New or empty; written whole or not at all.
            base: The task that the base is trained on, or its run; default: the members start from untrained weights.
            methods: Put on when the members are trained; their weights must fit the base afterwards.
            seed: Of the base and of the members.
            seeds: Of single members, by role.
            recipe: How the members are trained; default: each task's at `scale`.
            base_recipe: How the base is trained; default: its task's at `scale`.
            scale: `smoke`, `cpu` or `gpu`.
            trainable: Globs of modules that the fine-tunes may change, e.g. `("*", "!head")`.
            device: Where to train.
            store: Where the runs are kept; default as in `wb.train`.
            progress: Show a progress bar a run.

        Returns:
            The zoo.
        """
        from wbench.zoo.making import make_zoo

        given = {"scale": scale, "device": device, "store": store, "progress": progress, "probes": ()}
        make_zoo(
            members, Path(folder), base=base, methods=methods, seed=seed, seeds=seeds or {}, recipe=recipe,
            base_recipe=base_recipe, trainable=trainable, given=given,
        )  # fmt: skip
        return cls.open(folder)

    @property
    def base(self) -> nn.Module:
        """A copy of the base, in evaluation mode, on the CPU."""
        return copy.deepcopy(self._model)

    def __getitem__(self, role: str) -> nn.Module:
        """Read a member: a new model, in evaluation mode, on the CPU.

        Args:
            role: Which.

        Returns:
            The model.

        Raises:
            UnknownNameError: If there is no such member.
            CheckpointError: If its file is damaged, has changed, or holds values that are not finite.
        """
        entry = self._entry(role)
        _verify(self.folder / entry.file, entry)
        model = self.base
        _fill(model, self.folder / entry.file)
        return model

    def __iter__(self) -> Iterator[str]:
        return iter(self.members)

    def __len__(self) -> int:
        return len(self.members)

    def __contains__(self, role: object) -> bool:
        return role in self.members

    def identity(self, role: str) -> str:
        """Return the SHA-256 of a member's file (first 16 hex digits): what a run is named by, without reading tensors.

        Args:
            role: Which.
        """
        entry = self._entry(role)
        if role not in self._identities:
            self._identities[role] = (entry.sha256 or digest(self.folder / entry.file))[:16]
        return self._identities[role]

    def frame(self) -> pd.DataFrame:
        """Return what is known of the members: columns member, task, seed, methods, bytes, sha256, then the metrics on their own data."""
        import pandas as pd

        rows = [
            {
                "member": role, "task": _short(entry.task), "seed": entry.seed, "methods": " + ".join(entry.methods),
                "bytes": _size(self.folder / entry.file), "sha256": self.identity(role), **entry.metrics,
            }
            for role, entry in self.members.items()
        ]  # fmt: skip
        return pd.DataFrame(rows)

    def __repr__(self) -> str:
        shown = ", ".join([*self.members][:8]) + (", ..." if len(self) > 8 else "")
        return f"<Zoo {self.folder}: {len(self)} of {type(self._model).__name__}: {shown}>"

    def _repr_html_(self) -> str:
        return str(self.frame().to_html(escape=True, index=False, float_format="{:.4g}".format))

    def _entry(self, role: str) -> Entry:
        if role not in self.members:
            raise UnknownNameError(f"{self.folder} has no member '{role}'.{closest(role, self.members)}")
        return self.members[role]


def _fits(path: Path, who: str, model: nn.Module, whose: str = "the base") -> None:
    state, held = model.state_dict(), shapes(path)
    known = {tensor.data_ptr() for name, tensor in state.items() if name in held}
    for name, tensor in state.items():
        if name not in held and tensor.data_ptr() not in known:  # a tied tensor may be stored under one of its names
            raise FitError(f"{who} lacks key {name}, which {whose} has with shape {tuple(tensor.shape)} ({path})")
        if name in held and held[name] != tuple(tensor.shape):
            raise FitError(f"{who}: key {name} has shape {held[name]}, {whose} has {tuple(tensor.shape)} ({path})")
    for name in held:
        if name not in state:
            raise FitError(f"{who} holds key {name}, which {whose} lacks ({path})")


def _verify(path: Path, entry: Entry) -> None:
    if entry.sha256 and digest(path) != entry.sha256:
        raise CheckpointError(
            f"{path} is not the file that the zoo was made with: its SHA-256 differs; make the zoo again"
        )


@torch.no_grad()
def _fill(model: nn.Module, path: Path) -> None:
    # tensor by tensor, so that the checkpoint is never whole in memory beside the model
    state = model.state_dict()
    for name, tensor in iter_tensors(path):
        state[name].copy_(tensor)


def _size(path: Path) -> int:
    return sum(child.stat().st_size for child in (path.iterdir() if path.is_dir() else [path]) if child.is_file())


def _short(task: Mapping[str, Any]) -> str:
    if not task:
        return ""
    options = {key: value for key, value in task.items() if key != "id"}
    if task["id"] == "user":
        return f"user {options.get('name', '')}"
    return str(rebuild(type(find_task(task["id"])), options))
