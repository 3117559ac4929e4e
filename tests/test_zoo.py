"""Zoos: folders of models fine-tuned from one base, ours and anybody's."""

import gc
import json
import weakref

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner
from user_model import UserModel

import wbench as wb
from wbench.cli.zoo import app
from wbench.methods import OPCM, WeightAverage
from wbench.tasks import DigitDomains
from wbench.testing import small_model

SMALL = {"hidden": (12,), "domain": "rotated_pixels"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zoo")
    tasks = {f"domain{index}": DigitDomains(index=index, **SMALL) for index in range(3)}
    base = DigitDomains(domain="identity", hidden=(12,))
    store = wb.RunStore(folder / "runs")
    wb.Zoo.train(tasks, folder / "zoo", base=base, seed=4, scale="smoke", trainable=("*", "!head"), store=store)
    return folder / "zoo"


def write(folder, **models):
    folder.mkdir(exist_ok=True)
    for name, model in models.items():
        save_file(
            {key: value.contiguous() for key, value in model.state_dict().items()}, str(folder / f"{name}.safetensors")
        )
    return folder


def test_a_trained_zoo_gives_back_every_run_and_its_base(made):
    zoo = wb.Zoo.open(made)
    assert list(zoo) == ["domain0", "domain1", "domain2"] and "domain1" in zoo and len(zoo) == 3
    store = wb.RunStore(made.parent / "runs")
    for role, entry in zoo.members.items():
        run = store.get(entry.run)
        weights = run.tensors()
        assert all(torch.equal(value, weights[key]) for key, value in zoo[role].state_dict().items())
        assert entry.metrics["accuracy"] == run.final("accuracy")
        assert torch.equal(zoo[role].head.weight, zoo.base.head.weight)
        assert not torch.equal(zoo[role].blocks[0].linear.weight, zoo.base.blocks[0].linear.weight)
    frame = zoo.frame()
    assert list(frame["seed"]) == [4, 4, 4] and frame["accuracy"].between(0, 1).all()
    assert "index=2" in frame["task"][2]


def test_merging_a_zoo_is_merging_its_models(made):
    zoo = wb.Zoo.open(made)
    task = DigitDomains(domains=3, **SMALL)
    run = wb.train(task, OPCM(shuffle_order=False), seed=4, members=zoo, references={"base": zoo.base})
    direct = OPCM(shuffle_order=False).combine({role: zoo[role] for role in zoo}, base=zoo.base).models[0]
    assert all(torch.equal(value, run.tensors()[key]) for key, value in direct.state_dict().items())
    rows = run.metrics.query("split == 'test' and name == 'accuracy'")
    assert list(rows["phase"]) == ["domain0", "domain1", "domain2", "end"]
    assert run.final("accuracy") == pytest.approx(rows["value"][:-1].mean())
    images, digits = task.data(4)["domain1"].tensors
    assert rows["value"].iloc[1] == pytest.approx(float((direct(images).argmax(1) == digits).float().mean()))
    again = wb.train(task, OPCM(shuffle_order=False), seed=4, members=zoo, references={"base": zoo.base})
    assert again.id == run.id
    backwards = {role: zoo[role] for role in reversed(list(zoo))}
    other = wb.train(task, OPCM(shuffle_order=False), seed=4, members=backwards, references={"base": zoo.base})
    assert other.id != run.id and list(other.probe("method.opcm")["member"]) == ["domain2", "domain1", "domain0"]


def test_a_run_opens_one_member_at_a_time(made, monkeypatch):
    alive, most, read = weakref.WeakSet(), [], wb.Zoo.__getitem__

    def counted(zoo, role):
        gc.collect()
        most.append(len(alive))
        model = read(zoo, role)
        alive.add(model)
        return model

    monkeypatch.setattr(wb.Zoo, "__getitem__", counted)
    zoo = wb.Zoo.open(made)
    wb.train(DigitDomains(domains=3, **SMALL), WeightAverage(), seed=4, members=zoo)
    assert most == [0, 0, 0]


def test_anybodys_folder_opens_with_a_model(tmp_path):
    models = {"cars": small_model(1), "birds": small_model(2)}
    folder = write(tmp_path / "zoo", **models)
    torch.save({"state_dict": small_model(3).state_dict()}, folder / "dogs.pt")
    zoo = wb.Zoo.open(folder, model=small_model(0))
    assert list(zoo) == ["birds", "cars", "dogs"]
    assert torch.equal(zoo["cars"][0].weight, models["cars"][0].weight)
    assert torch.equal(zoo["dogs"][0].weight, small_model(3)[0].weight)
    assert torch.equal(zoo.base[0].weight, small_model(0)[0].weight)
    write(folder, base=small_model(9))
    assert torch.equal(wb.Zoo.open(folder, model=small_model(0)).base[0].weight, small_model(9)[0].weight)
    with pytest.raises(wb.WBenchError, match="does not say which model its checkpoints belong to; pass model="):
        wb.Zoo.open(folder)


def test_members_that_do_not_fit_are_refused_by_name(tmp_path):
    wide = nn.Sequential(nn.Linear(16, 40), nn.ReLU(), nn.Linear(40, 32), nn.ReLU(), nn.Linear(32, 8))
    folder = write(tmp_path / "wide", good=small_model(1), odd=wide)
    with pytest.raises(
        wb.WBenchError, match=r"member 'odd': key 0.weight has shape \(40, 16\), the base has \(32, 16\)"
    ):
        wb.Zoo.open(folder, model=small_model(0))
    folder = write(tmp_path / "short", odd=nn.Sequential(nn.Linear(16, 32)))
    with pytest.raises(
        wb.WBenchError, match=r"member 'odd' lacks key 2.weight, which the base has with shape \(32, 32\)"
    ):
        wb.Zoo.open(folder, model=small_model(0))
    folder = write(tmp_path / "long", odd=nn.Sequential(*small_model(0), nn.Linear(8, 2)))
    with pytest.raises(wb.WBenchError, match=r"member 'odd' holds key 5\.(weight|bias), which the base lacks"):
        wb.Zoo.open(folder, model=small_model(0))


def test_a_tied_tensor_may_be_stored_under_one_of_its_names(tmp_path):
    torch.manual_seed(1)
    model, base = UserModel(), UserModel()
    state = {key: value for key, value in model.state_dict().items() if key != "head.weight"}
    (tmp_path / "zoo").mkdir()
    save_file(state, str(tmp_path / "zoo" / "one.safetensors"))
    opened = wb.Zoo.open(tmp_path / "zoo", model=base)["one"]
    assert opened.head.weight is opened.embedding.weight and torch.equal(opened.head.weight, model.embedding.weight)


def test_damage_is_named(made, tmp_path):
    with pytest.raises(wb.WBenchError, match="no folder"):
        wb.Zoo.open(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(wb.WBenchError, match="holds no member"):
        wb.Zoo.open(tmp_path / "empty")
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in made.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    (copy / "domain1.safetensors").write_bytes((copy / "domain0.safetensors").read_bytes())
    zoo = wb.Zoo.open(copy)
    with pytest.raises(wb.WBenchError, match=r"domain1.safetensors is not the file that the zoo was made with"):
        zoo["domain1"]
    with pytest.raises(wb.WBenchError, match=r"has no member 'domain9'. Did you mean domain"):
        zoo["domain9"]
    record = json.loads((copy / "zoo.json").read_text())
    for change, words in (
        ({"format": 7}, "has the format 7"),
        ({"members": [1]}, "is no manifest of a zoo"),
        ({"members": {"a": {"file": "../../secret.safetensors"}}}, "which is not in the folder"),
        ({"members": {"a": {"file": "gone.safetensors"}}}, "which is not in the folder"),
    ):
        (copy / "zoo.json").write_text(json.dumps({**record, **change}))
        with pytest.raises(wb.WBenchError, match=words):
            wb.Zoo.open(copy)
    bad = write(tmp_path / "bad", one=small_model(0))
    save_file(
        {key: value * float("nan") for key, value in small_model(0).state_dict().items()}, str(bad / "one.safetensors")
    )
    with pytest.raises(wb.WBenchError, match="NaN or inf"):
        wb.Zoo.open(bad, model=small_model(0))["one"]


def test_training_refuses_before_it_spends_time(made, tmp_path):
    task = DigitDomains(**SMALL)
    with pytest.raises(wb.WBenchError, match="is not empty"):
        wb.Zoo.train({"a": task}, made)
    with pytest.raises(wb.WBenchError, match="member '../a' is not allowed"):
        wb.Zoo.train({"../a": task}, tmp_path / "zoo")
    with pytest.raises(wb.WBenchError, match="member 'base' is not allowed"):
        wb.Zoo.train({"base": task}, tmp_path / "zoo")
    with pytest.raises(wb.WBenchError, match="there is no member 'b'"):
        wb.Zoo.train({"a": task}, tmp_path / "zoo", seeds={"b": 1})
    with pytest.raises(wb.WBenchError, match="needs members"):
        wb.Zoo.train({}, tmp_path / "zoo")
    assert not (tmp_path / "zoo").exists()


def test_command_line_trains_and_lists(tmp_path):
    arguments = [
        "train", "digit_domains", "--members", "far: domain=shift strength=3", "--members", "domain=fog", "--base", "domain=identity",
        "--task-set", "hidden=12,12", "--scale", "smoke", "--trainable", "*,!head", "--out", str(tmp_path / "zoo"), "--seed", "3",
    ]  # fmt: skip
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    listed = CliRunner().invoke(app, ["list", str(tmp_path / "zoo")])
    assert listed.exit_code == 0 and "digit_domains(domain='shift', strength=3.0, hidden=(12, 12))" in listed.output
    zoo = wb.Zoo.open(tmp_path / "zoo")
    assert list(zoo) == ["far", "fog"] and zoo.members["far"].seed == 3
    assert zoo.base.blocks[1].linear.weight.shape == (12, 12)
    for wrong, words in (
        (["--members", "domain=fog"], "two members are named 'fog'"),
        (["--members", "fog"], "allowed: name=value"),
    ):
        error = CliRunner().invoke(app, [*arguments, *wrong]).exception
        assert isinstance(error, wb.WBenchError) and words in str(error)
