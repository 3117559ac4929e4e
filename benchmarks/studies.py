"""What studies cost: vectorised training against one run after another, a pool of processes, and the bare loop.

`python benchmarks/studies.py [--rounds 5] [--out benchmarks/results/studies.json]`: everything that is compared runs in turn
in each round, and ratios are taken within a round, as machines are noisy.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

import wbench as wb
from wbench.machine import cores, find_gpus
from wbench.method import Context
from wbench.study.pool import Processes
from wbench.study.worker import train_alone
from wbench.training.device import derive, seeded
from wbench.training.job import describe

RECIPE = wb.Recipe(optimizer="adam", lr=1e-3, batch_size=64, steps=300)
RATES = [3e-4, 1e-3, 3e-3, 1e-2]
SEEDS = 8
WORKERS = 2
STEPS_OF_A_SECOND = 1000
FINISHED = 2000
Timed = tuple[float, wb.RunStore]


def the_32(store: wb.RunStore, method: wb.Method | None, device: str = "cpu") -> wb.Study:
    """Return the study that is timed: 8 seeds at 4 learning rates of the digits MLP, nothing probed."""
    return wb.Study("digits", {"arm": method}, {"lr": RATES}, SEEDS, RECIPE, probes=(), device=device, store=store)


def arguments(study: wb.Study) -> list[dict[str, Any]]:
    """Return the arguments of `wb.train` for each run of a study."""
    found: list[dict[str, Any]] = []

    def collect(wanted: Any, outcome: Any) -> Any:
        found.extend(wanted.values())
        return outcome

    study.walk(collect)
    return found


def one_after_another(study: wb.Study) -> None:
    """Train in this process, run by run."""
    for given in arguments(study):
        wb.train(**given, store=study.store)


def timed(work: Callable[[wb.Study], Any], method: wb.Method | None, folder: str, device: str = "cpu") -> Timed:
    """Return seconds and the store that was filled."""
    store = wb.RunStore(tempfile.mkdtemp(dir=folder))
    study = the_32(store, method, device)
    begin = time.perf_counter()
    work(study)
    seconds = time.perf_counter() - begin
    frame = study.frame()
    assert list(frame["status"]) == ["finished"] * len(RATES) * SEEDS, frame["reason"]
    return seconds, store


def apart(one: wb.RunStore, other: wb.RunStore) -> dict[str, float]:
    """Return the largest differences between the same runs in two stores: of test accuracy and of test loss."""
    theirs = {run.id: run for run in other.runs()}
    pairs = [(run, theirs[run.id]) for run in one.runs()]
    return {f"test {name}": max(abs(a.final(name) - b.final(name)) for a, b in pairs) for name in ("accuracy", "loss")}


def compare_32(rounds: int, folder: str) -> dict[str, Any]:
    """Time the 32 runs in each way, plain and with weight compander."""
    outcome: dict[str, Any] = {}
    spawn = multiprocessing.get_context("spawn")
    for name, method in {"plain": None, "weight compander": wb.methods.WeightCompander()}.items():
        with ProcessPoolExecutor(WORKERS, mp_context=spawn) as pool, Processes(WORKERS) as workers:

            def pooled(study: wb.Study, pool: ProcessPoolExecutor = pool) -> None:
                url = study.store.url if study.store else ""
                for future in [pool.submit(train_alone, given, url) for given in arguments(study)]:
                    future.result()

            def warm(study: wb.Study, workers: Processes = workers) -> None:
                study.run(workers)

            ways = {
                "one after another": one_after_another, "pool of two": pooled, "study": warm,
                "study, processes started": lambda study: study.run(workers=WORKERS),
                "study in this process": lambda study: study.run(workers=1),
            }  # fmt: skip
            for way in ("one after another", "pool of two", "study"):  # everything is imported by now, everywhere
                timed(ways[way], method, folder)
            seconds: dict[str, list[float]] = {way: [] for way in ways}
            differences: list[dict[str, float]] = []
            for _ in range(rounds):
                stores = {}
                for way, work in ways.items():
                    spent, stores[way] = timed(work, method, folder)
                    seconds[way].append(round(spent, 3))
                differences.append(apart(stores["one after another"], stores["study"]))
                print(name, {way: values[-1] for way, values in seconds.items()}, differences[-1], flush=True)
        outcome[name] = {
            "seconds": seconds,
            "one after another / study": ratios(seconds, "one after another", "study"),
            "pool of two / study": ratios(seconds, "pool of two", "study"),
            "one after another / study, processes started": ratios(
                seconds, "one after another", "study, processes started"
            ),
            "one after another / study in this process": ratios(seconds, "one after another", "study in this process"),
            "largest difference of the same run": {
                key: max(part[key] for part in differences) for key in differences[0]
            },
        }
    return outcome


def ratios(seconds: dict[str, list[float]], above: str, below: str) -> dict[str, float]:
    """Return median, lowest and highest ratio over the rounds."""
    found = sorted(a / b for a, b in zip(seconds[above], seconds[below], strict=True))
    return {key: round(value, 2) for key, value in
            {"median": statistics.median(found), "lowest": found[0], "highest": found[-1]}.items()}  # fmt: skip


def bare(seed: int, steps: int) -> None:
    """Train the digits MLP in a loop that a person would write, with nothing watched or kept."""
    task = wb.tasks.get("digits")()
    split, model = task.data(seed)["train"], task.model(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    batches = split.batches(64, torch.Generator().manual_seed(seed))
    for _ in range(steps):
        batch = next(batches)
        optimizer.zero_grad(set_to_none=True)
        loss = task.loss(model(batch[0]), batch).mean()
        loss.backward()
        optimizer.step()


def overhead(rounds: int, folder: str) -> dict[str, Any]:
    """Time runs of about a second: the bare loop, the loop of `train` alone, `train` with its record, and a study."""
    from wbench.training.loop import fit, loss_function
    from wbench.training.session import Session

    recipe = RECIPE.replace(steps=STEPS_OF_A_SECOND)
    count = 2

    class Silent:
        def before_update(self, *_: Any) -> None: ...
        def after_update(self, *_: Any) -> None: ...
        def after_phase(self, *_: Any) -> None: ...

    def study(store: wb.RunStore) -> None:
        wb.Study("digits", {"arm": None}, {}, count, recipe, probes=(), device="cpu", store=store).run(
            workers=1, vectorize="never"
        )

    def plain(store: wb.RunStore) -> None:
        for seed in range(count):
            wb.train("digits", seed=seed, recipe=recipe, probes=(), every=STEPS_OF_A_SECOND, device="cpu", store=store)

    def loop(store: wb.RunStore) -> None:
        for seed in range(count):
            session = Session(describe("digits", seed=seed, recipe=recipe, probes=(), device="cpu"), store)
            context: Context = session.ctx
            with seeded(derive(seed, "training"), context.device):
                model = session.assemble()
                fit(model, context, loss_function(context), Silent(), session.order)

    def alone(store: wb.RunStore) -> None:
        for seed in range(count):
            bare(seed, STEPS_OF_A_SECOND)

    ways = {"bare loop": alone, "loop of train": loop, "train": plain, "study": study}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(4 * rounds + 1):
        for way, work in ways.items():
            store = wb.RunStore(tempfile.mkdtemp(dir=folder))
            begin = time.perf_counter()
            work(store)
            if number:
                seconds[way].append(round((time.perf_counter() - begin) / count, 4))
    print(seconds, flush=True)
    return {
        "seconds per run": seconds,
        "study / train": ratios(seconds, "study", "train"),
        "study / loop of train": ratios(seconds, "study", "loop of train"),
        "study / bare loop": ratios(seconds, "study", "bare loop"),
    }


def resume(rounds: int, folder: str) -> dict[str, Any]:
    """Time how long a study with 2,000 finished runs takes to see that nothing is left to do."""
    store = wb.RunStore(tempfile.mkdtemp(dir=folder))
    study = wb.Study(
        "digits", {"arm": None}, {"lr": RATES}, FINISHED // len(RATES), RECIPE, probes=(), device="cpu", store=store
    )
    example = wb.train(
        "digits",
        recipe=RECIPE.replace(steps=3),
        probes=(),
        device="cpu",
        store=wb.RunStore(tempfile.mkdtemp(dir=folder)),
    )
    rows, weights = example.metrics.to_dict("records"), example.tensors("weights")
    for given in arguments(study):  # what each leaves behind, without the training
        writer = store.writer(describe(**given).spec, example.info)
        writer.log(rows)
        writer.tensors("weights", weights)
        writer.commit()
    decisions, frames, queries = [], [], []
    for _ in range(rounds):
        begin = time.perf_counter()
        outcome = study.run(workers=1)
        decisions.append(round(time.perf_counter() - begin, 3))
        assert len(outcome.runs) == FINISHED
        begin = time.perf_counter()
        assert len(study.frame()) == FINISHED
        frames.append(round(time.perf_counter() - begin, 3))
        begin = time.perf_counter()
        assert len(wb.runs("SELECT * FROM runs", store)) == FINISHED
        queries.append(round(time.perf_counter() - begin, 3))
    print({"resume": decisions, "frame": frames, "query": queries}, flush=True)
    return {
        "runs": FINISHED,
        "seconds to decide": decisions,
        "seconds for frame()": frames,
        "seconds for wb.runs": queries,
    }


def on_gpu(rounds: int, folder: str) -> dict[str, Any]:
    """Time the 32 runs on a GPU, one after another and as a study in this process."""
    outcome: dict[str, Any] = {"device": torch.cuda.get_device_name()}
    for name, method in {"plain": None, "weight compander": wb.methods.WeightCompander()}.items():
        seconds: dict[str, list[float]] = {"one after another": [], "study": []}
        for number in range(rounds + 1):
            one, first = timed(one_after_another, method, folder, "cuda")
            two, second = timed(lambda study: study.run(workers=1), method, folder, "cuda")
            if number:
                seconds["one after another"].append(round(one, 3))
                seconds["study"].append(round(two, 3))
        outcome[name] = {
            "seconds": seconds, "one after another / study": ratios(seconds, "one after another", "study"),
            "largest difference of the same run": apart(first, second),
        }  # fmt: skip
    return outcome


def machine() -> dict[str, Any]:
    """Return what it was measured on."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    return {
        "cpu": names[0] if names else platform.processor(), "cores": cores(), "gpus": len(find_gpus()),
        "python": platform.python_version(), "torch": torch.__version__, "system": platform.system(),
    }  # fmt: skip


def main() -> None:
    """Measure, print, and keep the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "studies.json")
    parser.add_argument("--only", choices=["32", "overhead", "resume", "gpu"], action="append")
    given = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    parts = {"32": compare_32, "overhead": overhead, "resume": resume}
    if torch.cuda.is_available():
        parts["gpu"] = on_gpu
    found: dict[str, Any] = {"machine": machine()}
    with tempfile.TemporaryDirectory() as folder:
        for name, part in parts.items():
            if not given.only or name in given.only:
                found[name] = part(given.rounds, folder)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
