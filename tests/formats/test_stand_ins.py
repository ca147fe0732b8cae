"""Files with classes that are unknown here: their tensors are read, nothing is imported, and nothing runs."""

import argparse
import os
import pickle
import sys
import zipfile
from collections import OrderedDict, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import openwork as ow
from tests.formats.test_hostile_files import archive
from tests.helpers import conv_net, raises


@pytest.fixture
def foreign(monkeypatch):
    """A module of another program, which is gone when its files are read."""
    module = ModuleType("foreign_trainer")

    class Settings(dict[str, Any]):
        """A dictionary with attributes, as Lightning's AttributeDict."""

    @dataclass
    class Config:
        lr: float = 0.1
        nested: dict[str, Any] = field(default_factory=lambda: {"path": Path("x")})

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = conv_net()
            self.register_buffer("steps", torch.tensor(3))

    class Subclass(torch.Tensor):
        pass

    for kind in (Settings, Config, Net, Subclass):
        kind.__module__, kind.__qualname__ = "foreign_trainer", kind.__name__
        setattr(module, kind.__name__, kind)
    monkeypatch.setitem(sys.modules, "foreign_trainer", module)
    yield module
    assert "foreign_trainer" not in sys.modules


def gone() -> None:
    """The module of the other program is not there, and importing it would fail the test."""
    sys.modules.pop("foreign_trainer", None)


def test_a_checkpoint_with_objects_of_another_program(tmp_path, foreign):
    state = conv_net().state_dict()
    state["3.weight"][:5] = 0
    torch.save(
        {
            "state_dict": state,
            "hyper_parameters": foreign.Settings(lr=0.1, config=foreign.Config()),
            "callbacks": {"best": {"score": np.float64(0.5), "path": Path("a")}, "args": argparse.Namespace(a=1)},
            "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(9, 9)}}, "param_groups": [{"lr": 0.1}]}],
            "loops": defaultdict(list, fit=[1, 2]),
            "seen": {1, 2},
        },
        tmp_path / "x.ckpt",
    )
    gone()
    report, expected = ow.report(tmp_path / "x.ckpt"), ow.report(state)
    assert report.layers == expected.layers
    assert (report.parameters, report.zeros) == (expected.parameters, expected.zeros)
    assert report.skipped == dict.fromkeys(
        ["hyper_parameters", "callbacks", "optimizer_states", "loops", "seen"], "not part of the model's state"
    )
    under, unknown = report.notes
    assert under == "read is what lies under 'state_dict'"
    assert unknown.endswith("more: unknown here, not imported and left out")
    assert "foreign_trainer.Settings" in unknown


def test_a_pickled_module_has_the_parameters_of_its_state(tmp_path, foreign):
    net = foreign.Net()
    expected = ow.report(net.state_dict())
    torch.save({"epoch": 1, "model": net}, tmp_path / "x.pt")
    torch.save(net, tmp_path / "module.pt")
    gone()
    for name in ("x.pt", "module.pt"):
        report = ow.report(tmp_path / name)
        assert (report.layers, report.parameters) == (expected.layers, 781)
        assert report.skipped == {"steps": "int64"}
    assert ow.report(tmp_path / "module.pt").notes == (
        "foreign_trainer.Net, torch.nn.modules.container.Sequential, torch.nn.modules.conv.Conv2d and 3 more: unknown "
        "here, not imported and left out",
    )


def test_tensors_of_every_kind_are_those_that_torch_reads(tmp_path, foreign):
    base = torch.randn(4, 6)
    sparse = torch.eye(3).to_sparse()
    state = OrderedDict(
        plain=base, view=base[1:3, ::2], transposed=base.t(), half=base.half(), codes=(base * 9).to(torch.int8),
        fp8=base.to(torch.float8_e4m3fn), scalar=torch.tensor(2.0), empty=torch.empty(0, 3), flag=base > 0,
        parameter=nn.Parameter(base), sparse=sparse, complex=base.to(torch.complex64),
        uint16=torch.ones(2).to(torch.uint16),
        expanded=torch.ones(1).expand(5, 4),
    )  # fmt: skip
    torch.save({"model": state, "config": foreign.Config()}, tmp_path / "x.pt")
    torch.save(state, tmp_path / "plain.pt")
    gone()
    from openwork.formats.checkpoint import read_checkpoint

    found = read_checkpoint(tmp_path / "x.pt").tensors
    expected = read_checkpoint(tmp_path / "plain.pt").tensors
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert (found[name].dtype, found[name].shape, found[name].layout) == (tensor.dtype, tensor.shape, tensor.layout)
        assert torch.equal(found[name].to_dense(), tensor.to_dense()), name
    assert found["plain"].untyped_storage().data_ptr() == found["view"].untyped_storage().data_ptr()


def test_tensors_of_a_class_of_their_own_count_as_plain_ones(tmp_path, foreign):
    torch.save({"w": torch.eye(3).as_subclass(foreign.Subclass)}, tmp_path / "x.pt")
    gone()
    assert [(layer.name, layer.nonzero) for layer in ow.report(tmp_path / "x.pt").layers] == [("w", 3)]


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_what_cannot_be_read_in_the_models_part_is_named(tmp_path, foreign):
    codes = torch.quantize_per_tensor(torch.ones(2, 2), 0.1, 7, torch.quint8)
    torch.save({"w": torch.ones(2, 2), "q": codes, "x": foreign.Config(), "n": np.ones(2)}, tmp_path / "x.pt")
    gone()
    report = ow.report(tmp_path / "x.pt")
    assert report.parameters == 4
    assert report.skipped == {
        "q": "an object of torch._utils._rebuild_qtensor, which is not read",
        "x": "an object of foreign_trainer.Config, which is not read",
        "n": "an object of numpy._core.multiarray._reconstruct, which is not read",
    }


class Calls:
    """Pickles as a call."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> Any:
        return self.call


def attacks(marker: Path) -> list[Any]:
    """Objects that would make the file ``marker`` if they were unpickled by pickle."""
    python = f"open({str(marker)!r}, 'w').close()"
    return [
        Calls(os.system, f"touch {marker}"),
        Calls(eval, python),
        Calls(exec, python),
        Calls(getattr, Calls(__import__, "os"), "system"),
        Calls(open, str(marker), "w"),
        Calls(map, Calls(eval, "open"), [str(marker)]),
        {"nested": [{"deep": (Calls(os.system, f"touch {marker}"),)}]},
        Calls(torch.load, str(marker)),
        Calls(bytes, 1 << 40),
        Calls(Path.touch, marker),
    ]


@pytest.mark.parametrize("index", range(10))
def test_hostile_objects_beside_tensors_do_nothing(tmp_path, index, monkeypatch):
    marker, called = tmp_path / "executed", []
    attack = attacks(marker)[index]
    torch.save({"model": {"w": torch.eye(2)}, "x": attack}, tmp_path / "x.pt")
    torch.save({"model": {"w": torch.eye(2), "x": attack}}, tmp_path / "inside.pt")
    for name in ("system", "popen", "execv"):
        monkeypatch.setattr(os, name, lambda *args: called.append(args))
    modules = set(sys.modules)
    for file in ("x.pt", "inside.pt"):
        report = ow.report(tmp_path / file)
        assert (report.parameters, report.zeros) == (4, 2)
    assert (called, marker.exists(), set(sys.modules) - modules) == ([], False, set())


def opcodes(*parts: bytes) -> bytes:
    return b"\x80\x02" + b"".join(parts) + b"."


UNKNOWN = b"cforeign\nThing\n"
NO_TENSOR = [
    opcodes(UNKNOWN, b")R", b"}(X\x01\x00\x00\x00aK\x01ub"),  # BUILD of attributes
    opcodes(UNKNOWN, b"0", b"ccollections\nOrderedDict\n", b")R", b"K\x07b"),  # BUILD of a plain dictionary
    opcodes(b"(", UNKNOWN, b"o"),  # OBJ
    opcodes(b"(iforeign\nThing\n"),  # INST
    opcodes(b"K\x05", b")R"),  # a number is called
    opcodes(UNKNOWN, b"0", b"}r\xff\xff\xff\x7f", b"j\xff\xff\xff\x7f"),  # a memo of two thousand million places
    opcodes(UNKNOWN, b"X\xff\xff\xff\x7fabc"),  # a text longer than the file
    opcodes(UNKNOWN, b"0", b"\x8e" + b"\xff" * 7 + b"\x7f"),  # bytes longer than any memory
    opcodes(
        UNKNOWN, b"0", b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x009X\x03\x00\x00\x00cpuK\x01tQ"
    ),
    opcodes(UNKNOWN, b"0", b"\x82\x01"),  # a registry of extensions
    opcodes(UNKNOWN, b"K\x05R"),  # arguments that are no tuple
]


@pytest.mark.parametrize("content", NO_TENSOR, ids=range(len(NO_TENSOR)))
def test_pickles_that_are_no_checkpoints_are_one_sentence(tmp_path, content):
    archive(tmp_path / "x.pt", content)
    with raises(ValueError, "x.pt is not a readable torch checkpoint ("):
        ow.report(tmp_path / "x.pt")


def rebuilt(offset: str, size: tuple[int, ...], stride: tuple[int, ...], count: int = 4) -> bytes:
    """A pickle of {"w": tensor, "x": an unknown class}, with protocol 0's numbers, which may have any size."""

    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(f"I{n}\n".encode() for n in values) + b"t"

    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
    storage += f"I{count}\n".encode() + b"tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + f"I{offset}\n".encode()
    tensor += numbers(size) + numbers(stride) + b"I00\n}tR"
    return opcodes(b"}(X\x01\x00\x00\x00w", tensor, b"X\x01\x00\x00\x00x", UNKNOWN, b"u")


@pytest.mark.parametrize(
    ("offset", "size", "stride", "count"),
    [
        ("0", (5,), (1,), 4),  # beyond the storage
        ("1", (4,), (1,), 4),
        ("0", (2, 2), (3, 1), 4),
        ("-1", (4,), (1,), 4),
        ("0", (4,), (-1,), 4),
        ("0", (-4,), (1,), 4),
        ("0", (4,), (1, 1), 4),
        ("0", (1 << 80,), (0,), 4),
        ("0", (1,) * 65, (1,) * 65, 4),
        ("0", (4,), (1,), 1 << 40),  # a storage beyond its entry
        ("0", (4,), (1,), -4),
    ],
)
def test_tensors_that_lie_about_their_size_are_refused(tmp_path, offset, size, stride, count):
    def write(path: Path, content: bytes) -> None:
        archive(path, content)
        with zipfile.ZipFile(path, "a") as file:
            file.writestr("x/data/0", bytes(16))

    write(tmp_path / "sound.pt", rebuilt("0", (2, 2), (2, 1)))
    assert ow.report(tmp_path / "sound.pt").zeros == 4
    write(tmp_path / "x.pt", rebuilt(offset, size, stride, count))
    with raises(ValueError, "x.pt is not a readable torch checkpoint ("):
        ow.report(tmp_path / "x.pt")


def test_dictionaries_that_share_each_other_are_refused_before_they_take_forever(tmp_path):
    level: dict[str, Any] = {"w": torch.ones(1)}
    for _ in range(12):
        level = {str(i): level for i in range(10)}
    torch.save(level, tmp_path / "x.pt")
    with raises(ValueError, "x.pt spells more than 1,000,000 names; save a state_dict"):
        ow.report(tmp_path / "x.pt")


def test_a_large_dictionary_that_is_named_a_thousand_times_is_kept_once(tmp_path):
    """Copies would take a hundred million items."""
    large = pickle.dumps({f"k{i}": i for i in range(100_000)}, 2)[2:-1]
    content = opcodes(large, b"q\xff0", b"}(X\x01\x00\x00\x00w", rebuilt("0", (4,), (1,))[2:-1], b"X\x01\x00\x00\x00x")
    content = content[:-1] + b"](" + (UNKNOWN + b"h\xff\x85R") * 1000 + b"eu."
    archive(tmp_path / "x.pt", content)
    with zipfile.ZipFile(tmp_path / "x.pt", "a") as file:
        file.writestr("x/data/0", bytes(16))
    assert ow.report(tmp_path / "x.pt").parameters == 4


@pytest.mark.filterwarnings("ignore")  # of lightning
def test_a_checkpoint_of_lightning(tmp_path):
    lightning = pytest.importorskip("lightning")

    class Net(lightning.LightningModule):
        def __init__(self, config):
            super().__init__()
            self.save_hyperparameters()
            self.net = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2))

        def training_step(self, batch, index):
            return self.net(batch).square().mean()

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters())

    trainer = lightning.Trainer(
        max_steps=1,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        callbacks=[lightning.pytorch.callbacks.ModelCheckpoint(dirpath=tmp_path)],
    )
    trainer.fit(Net(argparse.Namespace(width=8)), torch.utils.data.DataLoader(torch.randn(4, 4), batch_size=2))
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    report = ow.report(tmp_path / "x.ckpt")
    assert [(layer.name, layer.shape) for layer in report.layers] == [
        ("net.0.weight", (8, 4)),
        ("net.2.weight", (2, 8)),
    ]
    assert report.parameters == 32 + 8 + 8 + 8 + 16 + 2
    assert {"optimizer_states", "hyper_parameters", "callbacks"} <= set(report.skipped)
    assert report.notes[0] == "read is what lies under 'state_dict'"
    assert "argparse.Namespace" in report.notes[1]
