from __future__ import annotations

import argparse
import collections
import datetime
import functools
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch_geometric.nn import GCN

from gnnexport.errors import UnsafeFileError, UsageError
from gnnexport.frontends.model import load_model, read_model
from tests.unit.frontends import hostile

BUILDER = "from torch_geometric.nn import GCN\n\ndef build():\n    return GCN(4, 8, 2, 3)\n"


class Settings:
    """Settings of a class of the user's own, as they stand in a checkpoint."""

    width = 8

    def __new__(cls, **settings: int) -> Settings:
        """Take settings by name."""
        return super().__new__(cls)

    def __getnewargs_ex__(self) -> tuple[tuple[()], dict[str, int]]:
        return (), {"width": 8}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a builder."""
    (tmp_path / "make_gcn.py").write_text(BUILDER)
    return tmp_path


def weights() -> dict[str, Tensor]:
    """Weights that the builder's module takes."""
    torch.manual_seed(0)
    return GCN(4, 8, 2, 3).state_dict()


def prefixed(prefix: str) -> dict[str, Tensor]:
    """The same under longer names."""
    return {prefix + name: value for name, value in weights().items()}


def lightning(**more: object) -> dict[str, Any]:
    """What `Trainer.save_checkpoint` of PyTorch Lightning 2 writes."""
    progress = {"total": {"ready": 4, "completed": 4}, "current": {"ready": 2, "completed": 2}}
    adam = {"state": {0: {"step": torch.tensor(4.0), "exp_avg": torch.zeros(8)}}, "param_groups": [{"lr": 0.01}]}
    return {
        "epoch": 2,
        "global_step": 4,
        "pytorch-lightning_version": "2.6.6",
        "state_dict": prefixed("model."),
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": progress}},
        "callbacks": {
            "ModelCheckpoint{'monitor': 'loss'}": {
                "best_model_score": torch.tensor(1.0),
                "best_k_models": {"/runs/epoch=1.ckpt": torch.tensor(1.0)},
            }
        },
        "optimizer_states": [adam],
        "lr_schedulers": [{"step_size": 1, "base_lrs": [0.01]}],
        "hparams_name": "kwargs",
        "hyper_parameters": {"hidden": 8, "lr": 0.01},
        **more,
    }


def assert_filled(path: Path, **options: Any) -> tuple[str, ...]:
    """The module has the weights; returns the notes."""
    loaded = read_model(path, builder="make_gcn.py:build", **options)
    for name, value in weights().items():
        assert torch.equal(loaded.model.state_dict()[name], value)
    return loaded.notes


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model.", "net.", "model._orig_mod.", "gnn.0."])
def test_a_common_prefix_is_taken_off(prefix: str, folder: Path) -> None:
    """What DataParallel, torch.compile and Lightning put in front of every name does not matter."""
    torch.save(prefixed(prefix), folder / "weights.pt")
    notes = assert_filled(folder / "weights.pt")
    assert bool(notes) == bool(prefix)
    assert all(repr(prefix) in note for note in notes)


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "net"])
@pytest.mark.parametrize("suffix", ["pt", "pth", "ckpt", "bin"])
def test_weights_are_found_in_a_training_checkpoint(key: str, suffix: str, folder: Path) -> None:
    """Beside an epoch and the state of an optimiser, under the names that people give them."""
    adam = torch.optim.Adam(GCN(4, 8, 2, 3).parameters()).state_dict()
    path = folder / f"last.{suffix}"
    torch.save({"epoch": 3, key: weights(), "optimizer_state_dict": adam, "loss": 0.5}, path)
    assert assert_filled(path) == ()


def test_a_lightning_checkpoint_goes_through_a_builder(folder: Path) -> None:
    """The prefix that the LightningModule's attribute gives is taken off; without a builder, it is asked for."""
    torch.save(lightning(), folder / "last.ckpt")
    assert_filled(folder / "last.ckpt")
    with pytest.raises(UsageError, match=r"checkpoint of PyTorch Lightning.*--builder"):
        load_model(folder / "last.ckpt")
    with pytest.raises(UsageError, match=r"checkpoint of PyTorch Lightning.*--builder"):
        load_model(folder / "last.ckpt", trust=True)


HIDING: dict[str, Callable[[object], object]] = {
    "defaultdict": lambda evil: collections.defaultdict(list, {"a": evil}),
    "counter": lambda evil: collections.Counter({"a": evil}),
    "deque": lambda evil: collections.deque([evil]),
    "own": lambda evil: Odd([evil]),
}


class Odd(list[object]):
    """A list of a class of the user's own, whose members a pickle appends to it."""


@pytest.mark.parametrize("name", HIDING)
def test_what_is_not_kept_of_a_checkpoint_is_held_against_the_names_too(name: str, folder: Path) -> None:
    """A call hidden among the items of an unknown container refuses the file, though it would never be made."""
    evil = hostile.by_system(folder / "it_ran")
    torch.save({"state_dict": weights(), "optimizer": HIDING[name](evil)}, folder / "last.pt")
    with pytest.raises(UnsafeFileError, match=r"\.system', which no checkpoint needs"):
        load_model(folder / "last.pt", builder="make_gcn.py:build")
    assert not (folder / "it_ran").exists()


def test_a_whole_module_in_a_checkpoint_gives_its_weights(folder: Path) -> None:
    """A trusted checkpoint that holds the module itself fills the builder's module as its state dict does."""
    model = GCN(4, 8, 2, 3)
    model.load_state_dict(weights())
    torch.save({"model": model, "epoch": 3}, folder / "last.pt")
    assert_filled(folder / "last.pt", trust=True)


OTHERS: dict[str, object] = {
    "namespace": argparse.Namespace(hidden=8),
    "own": Settings(),
    "partial": functools.partial(torch.optim.Adam, lr=0.1),
    "path": Path("runs"),
    "date": datetime.date(2024, 1, 1),
    "scalar": np.float64(0.5),
    "array": np.arange(3),
    "default": collections.defaultdict(list, {"a": [1]}),
    "deque": collections.deque([1, 2]),
    "bytes": b"abc",
    "complex": 1j,
    "frozen": frozenset([1]),
    "counter": collections.Counter("aab"),
    "net": nn.Conv2d(1, 1, 1),
}


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("place", ["hyper_parameters", "datamodule_hyper_parameters", "callbacks"])
def test_settings_of_any_class_do_not_block_the_weights(place: str, protocol: int, folder: Path) -> None:
    """What is not read is never made, and a note names it."""
    torch.save(lightning(**{place: OTHERS}), folder / "last.ckpt", pickle_protocol=protocol)
    notes = assert_filled(folder / "last.ckpt")
    assert any("only the weights were read" in note and "'argparse.Namespace'" in note for note in notes)


HOSTILE: dict[str, Callable[[Path], dict[str, Any]]] = {
    "settings": lambda marker: lightning(hyper_parameters={"a": hostile.by_system(marker)}),
    "optimiser": lambda marker: lightning(optimizer_states=[{"state": {0: hostile.by_eval(marker)}}]),
    "key": lambda marker: {**lightning(), hostile.by_system(marker): 1},
    "weight": lambda marker: lightning(state_dict={**prefixed("model."), "model.extra": hostile.by_system(marker)}),
    "metadata": lambda marker: lightning(state_dict=_with_metadata(hostile.by_system(marker))),
    "plain": lambda marker: {**weights(), "extra": hostile.by_eval(marker)},
    "rendered": lambda marker: {**weights(), "extra": hostile.gcn_with_code_in_a_type(marker)},
    "called": lambda marker: {"state_dict": weights(), "net": hostile.Calls(exec, f"open({str(marker)!r}, 'w')")},
}


def _with_metadata(value: object) -> dict[str, Tensor]:
    state = GCN(4, 8, 2, 3).state_dict()
    vars(state)["_metadata"] = value
    return state


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_checkpoint_is_refused(name: str, folder: Path) -> None:
    """Code behind settings, an optimiser, a key or a weight is never run, with a builder and without."""
    marker = folder / "it_ran"
    (folder / "last.ckpt").write_bytes(hostile.saved(HOSTILE[name](marker)))
    for builder in (None, "make_gcn.py:build"):
        with pytest.raises(UnsafeFileError) as caught:
            load_model(folder / "last.ckpt", builder=builder)
        assert caught.value.exit_code == 2
        assert not marker.exists()


def test_code_of_no_known_kind_is_not_run_either(folder: Path) -> None:
    """A call that looks like a setting is left alone."""
    marker = folder / "it_ran"
    torch.save(lightning(hyper_parameters=hostile.Calls(Path.touch, marker)), folder / "last.ckpt")
    assert any("'pathlib.Path" in note or "'builtins.getattr'" in note for note in assert_filled(folder / "last.ckpt"))
    assert not marker.exists()


def test_names_that_do_not_fit_are_listed(folder: Path) -> None:
    """More than a prefix between the names is the user's to mend, and every difference is shown."""
    state = {**prefixed("model."), "criterion.weight": torch.ones(3)}
    torch.save({"state_dict": state}, folder / "last.ckpt")
    with pytest.raises(UsageError, match=r"lacks 'convs\.0\.bias'.*has 'criterion\.weight'.*the module does not know"):
        load_model(folder / "last.ckpt", builder="make_gcn.py:build")


def test_weights_of_another_precision_are_told(folder: Path) -> None:
    """Half precision in the file becomes the builder's, with a note."""
    torch.save({name: value.half() for name, value in weights().items()}, folder / "half.pt")
    loaded = read_model(folder / "half.pt", builder="make_gcn.py:build")
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.float32}
    assert any("torch.float16 were converted" in note for note in loaded.notes)


def safetensors(tensors: dict[str, Tensor], **changes: Any) -> bytes:
    """Write the format by its description."""
    table: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    numbers = b""
    for name, tensor in tensors.items():
        raw = tensor.numpy().tobytes()
        offsets = [len(numbers), len(numbers) + len(raw)]
        table[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": offsets, **changes}
        numbers += raw
    text = json.dumps(table).encode()
    return struct.pack("<Q", len(text)) + text + numbers


def test_safetensors_are_read(folder: Path) -> None:
    """Weights in this format need a builder too."""
    (folder / "model.safetensors").write_bytes(safetensors(weights()))
    assert_filled(folder / "model.safetensors")
    with pytest.raises(UsageError, match=r"weights without their module.*--builder"):
        load_model(folder / "model.safetensors")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is truncated"),
        (b"\xff" * 20, "is truncated"),
        (struct.pack("<Q", 2) + b"[]", "its table is not a table"),
        (struct.pack("<Q", 3) + b"{]}", "its table cannot be read"),
        (safetensors(weights())[:-4], "reaches outside the file"),
        (safetensors(weights(), shape=[3]), "another size than its shape"),
        (safetensors(weights(), shape=[0, 2**62, 2**62], data_offsets=[0, 0]), "reaches outside the file"),
        (safetensors(weights(), dtype="F8_E4M3"), "of the unknown type 'F8_E4M3'"),
        (safetensors(weights(), data_offsets="all"), "reaches outside the file"),
        (safetensors(weights(), shape=[0], data_offsets=[0, 0]), "its tensors end at byte 0 of"),
        (safetensors(dict.fromkeys("abc", torch.ones(2)), data_offsets=[0, 8]), "overlap or leave a gap at byte 0"),
        (safetensors({"a": torch.ones(2)}, data_offsets=[4, 8], shape=[1]), "overlap or leave a gap at byte 4"),
        (safetensors({"other": torch.ones(2)}), r"lacks 'convs\.0\.bias'"),
    ],
)
def test_broken_safetensors_are_usage_errors(content: bytes, words: str, folder: Path) -> None:
    """Every fault of the file is named."""
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(UsageError, match=words):
        load_model(folder / "model.safetensors", builder="make_gcn.py:build")
