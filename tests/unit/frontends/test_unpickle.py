from __future__ import annotations

import copy
import pickle
import random
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch_geometric.nn import GAT, GCN, GIN, MLP, PNA, BatchNorm, GCNConv, GraphSAGE, SAGEConv, Sequential

from gnnexport.errors import UnsafeFileError, UsageError
from gnnexport.frontends.unpickle import load_object
from tests.unit.frontends import hostile

EDGES = torch.tensor([[0, 1, 2, 3, 3, 0], [1, 2, 0, 0, 3, 0]])


def models() -> dict[str, nn.Module]:
    """Make one small model of each family that must load."""
    torch.manual_seed(0)
    tied = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])
    tied[1].weight = tied[0].weight
    return {
        "gcn": GCN(8, 8, 3, 3, norm="batch", jk="cat", dropout=0.3),
        "sage": GraphSAGE(8, 8, 2, 3, norm="layer", act="leaky_relu"),
        "gin": GIN(8, 8, 2, 3, train_eps=True),
        "gat": GAT(8, 8, 2, 3, heads=2),
        "gatv2": GAT(8, 8, 2, 3, heads=2, v2=True),
        "pna": PNA(8, 8, 2, 3, aggregators=["mean", "max", "std"], scalers=["identity"], deg=torch.tensor([0, 3, 1])),
        "recurrent": GCN(8, 8, 2, 3, jk="lstm"),
        "function": GCN(8, 8, 2, 3, act=torch.relu),
        "several": SAGEConv(8, 3, aggr=["mean", "std"]),
        "sequential": Sequential(
            "x, edge_index",
            [
                (GCNConv(8, 8), "x, edge_index -> x1"),
                (BatchNorm(8), "x1 -> x1"),
                nn.ELU(inplace=True),
                (SAGEConv(8, 8), "x1, edge_index -> x2"),
                (nn.Linear(8, 3), "x2 -> x2"),
            ],
        ),
        "composed": Sequential(
            "x, edge_index",
            [(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), MLP([8, 8, 8])), "x -> x"), (tied[0], "x -> x"), tied[1]],
        ),
    }


def answer(model: nn.Module, x: Tensor) -> Tensor:
    """Run a model in eval mode on the small graph."""
    with torch.inference_mode():
        output: Tensor = model.eval()(x, EDGES)
    return output


@pytest.mark.parametrize("name", sorted(models()))
def test_an_honest_model_loads_with_equal_outputs(name: str, tmp_path: Path) -> None:
    """What comes back computes the same, keeps its parameter names, and can be copied."""
    model, path = models()[name], tmp_path / "model.pt"
    torch.save(model, path)
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
    loaded = load_object(path)
    assert isinstance(loaded, nn.Module)
    assert [key for key, _ in loaded.named_parameters()] == [key for key, _ in model.named_parameters()]
    assert torch.equal(answer(loaded, x), answer(model, x))
    assert torch.equal(answer(copy.deepcopy(loaded), x), answer(model, x))


def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    """A parameter held twice comes back as one parameter."""
    layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
    layers[1].weight = layers[0].weight
    torch.save(layers, tmp_path / "model.pt")
    loaded = load_object(tmp_path / "model.pt")
    assert isinstance(loaded, nn.ModuleList)
    assert loaded[1].weight is loaded[0].weight


def test_a_loaded_layer_trains(tmp_path: Path) -> None:
    """Parameters require gradients again, and buffers do not."""
    torch.save(models()["gcn"], tmp_path / "model.pt")
    loaded = load_object(tmp_path / "model.pt")
    assert isinstance(loaded, nn.Module)
    loaded.train()(torch.randn(4, 8), EDGES).sum().backward()
    assert all(parameter.grad is not None for parameter in loaded.parameters())


def test_a_state_dict_and_a_data_come_as_dictionaries(tmp_path: Path) -> None:
    """Weights and graphs are mappings of tensors, with integers and booleans unharmed."""
    model = GCN(8, 8, 2, 3, norm="batch")
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    weights = load_object(tmp_path / "weights.pt")
    assert isinstance(weights, dict)
    model.load_state_dict(weights)
    graph = hostile.data(train_mask=torch.tensor([True, False, True]), name="three", half=torch.ones(2).half())
    torch.save(graph, tmp_path / "data.pt")
    loaded = load_object(tmp_path / "data.pt")
    assert isinstance(loaded, dict)
    assert set(loaded) == {"x", "edge_index", "y", "train_mask", "name", "half"}
    assert all(torch.equal(loaded[key], graph[key]) for key in loaded if key != "name")


def test_newer_pickle_protocols_are_read(tmp_path: Path) -> None:
    """A file written with pickle protocol 5 loads like one of protocol 2."""
    model = models()["sage"]
    torch.save(model, tmp_path / "model.pt", pickle_protocol=5)
    loaded = load_object(tmp_path / "model.pt")
    assert isinstance(loaded, nn.Module)
    assert torch.equal(answer(loaded, torch.ones(4, 8)), answer(model, torch.ones(4, 8)))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_file_says_so(share: float, tmp_path: Path) -> None:
    """A file cut anywhere is a usage error with a mend."""
    whole = hostile.saved(models()["gin"])
    path = tmp_path / "model.pt"
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(UsageError, match=r"(truncated|empty).*(Copy|Save) it again"):
        load_object(path)


def test_a_changed_byte_is_noticed(tmp_path: Path) -> None:
    """Damage inside a storage fails its checksum."""
    whole = bytearray(hostile.saved({"weight": torch.arange(64.0)}))
    at = bytes(whole).index(torch.arange(64.0).numpy().tobytes())
    whole[at + 9] ^= 1
    (tmp_path / "model.pt").write_bytes(whole)
    with pytest.raises(UsageError, match="damaged in storage"):
        load_object(tmp_path / "model.pt")


def test_missing_and_legacy_files_are_usage_errors(tmp_path: Path) -> None:
    """No file, and a file of the time before zip, each with its mend."""
    with pytest.raises(UsageError, match="no such file"):
        load_object(tmp_path / "absent.pt")
    torch.save({"a": torch.ones(1)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(UsageError, match=r"not a zip file.*Save it again with torch.save"):
        load_object(tmp_path / "old.pt")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_torchscript_archive_is_refused(tmp_path: Path) -> None:
    """`torch.load` would hand such a file to another loader, past any pickle module."""
    hostile.torchscript(tmp_path / "model.pt")
    with pytest.raises(UnsafeFileError, match="TorchScript"):
        load_object(tmp_path / "model.pt")


def test_archives_of_another_layout_are_refused(tmp_path: Path) -> None:
    """Compressed records (bombs), records told twice, records that overlap."""
    good, bad = tmp_path / "good.pt", tmp_path / "bad.pt"
    good.write_bytes(hostile.saved({"weight": torch.zeros(10_000)}))
    hostile.rewrite(good, bad, lambda name, content: content, compress=True)
    with pytest.raises(UnsafeFileError, match="compressed"):
        load_object(bad)
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(good, "a") as archive:
        archive.writestr(archive.namelist()[0], b"other")
    with pytest.raises(UnsafeFileError, match="twice"):
        load_object(good)


MALFORMED = {
    "INST": b"(S'echo'\nios\nsystem\n.",
    "OBJ": b"(cos\nsystem\nS'echo'\no.",
    "EXT1": b"\x80\x02\x82\x01.",
    "NEWOBJ_EX": b"\x80\x04cos\nsystem\n)}\x92.",
    "PERSID": b"Pstorage\n.",
}


@pytest.mark.parametrize("name", MALFORMED)
def test_instructions_that_torch_save_does_not_write_are_refused(name: str, tmp_path: Path) -> None:
    """Other ways to make a pickle call something are not interpreted at all."""
    hostile.write_pickle(tmp_path / "model.pt", MALFORMED[name])
    with pytest.raises(UnsafeFileError, match=r"the pickle instruction|on the safe list"):
        load_object(tmp_path / "model.pt")


INDIRECT = {
    "getattr": (b"\x80\x02cbuiltins\ngetattr\nctorch\nTensor\nX\x03\x00\x00\x00foo\x86R.", "calls 'builtins.getattr'"),
    "call_of_a_result": (b"\x80\x02cbuiltins\ngetattr\n)R)R.", "calls something that it computed itself"),
    "new_with_arguments": (b"\x80\x02ctorch.nn.modules.linear\nIdentity\nK\x01\x85\x81.", "makes"),
    "module_called": (b"\x80\x02ctorch.nn.modules.linear\nIdentity\n)R.", "calls"),
    "dotted_name": (b"\x80\x04\x8c\x17torch.nn.modules.linear\x8c\x0eLinear.forward\x93.", "not on the safe list"),
    "imported_name": (b"\x80\x02ctorch.nn.modules.linear\nmath\n.", "not on the safe list"),
    "lazy": (b"\x80\x02ctorch.nn.modules.linear\nLazyLinear\n)\x81.", "not on the safe list"),
    "graph_module": (b"\x80\x02ctorch.fx.graph_module\nreduce_graph_module\n)R.", "not on the safe list"),
    "state_of_a_global": (b"\x80\x02ctorch\nTensor\n}b.", "sets the state of something that has none"),
    "items_of_a_module": (b"\x80\x02ctorch.nn.modules.linear\nIdentity\n)\x81K\x01K\x02s.", "sets items of"),
    "persistent_code": (b"\x80\x02X\x03\x00\x00\x00foo\x85Q.", "not a storage"),
    "a_bare_type": (b"\x80\x02cbuiltins\ntype\n.", "is 'builtins.type'"),
    "terminal_codes": (b"\x80\x02cos\n\x1b[2J\n.", r"\\x1b\[2J"),
}


@pytest.mark.parametrize("name", INDIRECT)
def test_roundabout_ways_to_code_are_refused(name: str, tmp_path: Path) -> None:
    """Names on the safe list are of no use for reaching others, and are printed without control characters."""
    pickled, words = INDIRECT[name]
    hostile.write_pickle(tmp_path / "model.pt", pickled)
    with pytest.raises(UnsafeFileError, match=words) as caught:
        load_object(tmp_path / "model.pt")
    assert str(caught.value).isprintable()


def test_a_value_that_contains_itself_is_refused(tmp_path: Path) -> None:
    """A list in itself, and a tower of lists, end in an error and not in a crash."""
    hostile.write_pickle(tmp_path / "loop.pt", b"\x80\x02]q\x00h\x00a.")
    with pytest.raises(UnsafeFileError, match="contains itself"):
        load_object(tmp_path / "loop.pt")
    hostile.write_pickle(tmp_path / "tower.pt", b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".")
    with pytest.raises(UnsafeFileError, match="nested too deeply"):
        load_object(tmp_path / "tower.pt")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b"K\x04K\x03\x86", b"K\x04K\x09\x86", "reaches outside its storage"),
        (b"K\x03K\x01\x86", b"K\x00K\x00\x86", None),
        (b"K\x0ct", b"K\x0dt", "has 48 bytes, not what its tensors need"),
        (b"FloatStorage", b"DoubleStorag", "a storage of kind"),
    ],
)
def test_tensors_are_checked_against_their_storage(old: bytes, new: bytes, words: str | None, tmp_path: Path) -> None:
    """Sizes in the pickle cannot make a tensor read past the numbers that are there."""
    (tmp_path / "good.pt").write_bytes(hostile.saved({"weight": torch.arange(12.0).reshape(4, 3)}))
    hostile.rename_in_pickle(tmp_path / "good.pt", tmp_path / "bad.pt", old, new)
    if words is None:
        loaded = load_object(tmp_path / "bad.pt")
        assert isinstance(loaded, dict)
        assert loaded["weight"].eq(0).all()
        return
    with pytest.raises(UsageError, match=words):
        load_object(tmp_path / "bad.pt")


def test_recurrent_weights_must_fit_their_sizes(tmp_path: Path) -> None:
    """Compiled code gets a flat list of weights, so none may be smaller than it believes."""
    layer = nn.LSTM(4, 8)
    layer.weight_hh_l0 = nn.Parameter(torch.ones(2, 2))
    torch.save(layer, tmp_path / "model.pt")
    with pytest.raises(UnsafeFileError, match="parameters that do not fit its sizes"):
        load_object(tmp_path / "model.pt")


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """An honest file, and its pickle."""
    path = tmp_path_factory.mktemp("honest") / "model.pt"
    model = Sequential("x, edge_index", [(GCNConv(8, 8), "x, edge_index -> x"), (nn.BatchNorm1d(8), "x -> x")])
    path.write_bytes(hostile.saved(model))
    with zipfile.ZipFile(path) as archive:
        return path, archive.read("archive/data.pkl")


@given(at=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255), drop=st.integers(0, 3))
def test_a_changed_pickle_never_ends_in_a_crash(honest: tuple[Path, bytes], at: float, byte: int, drop: int) -> None:
    """With any byte of its pickle exchanged or dropped, a file loads as a module or is refused with a reason."""
    path, pickled = honest
    place = int(at * len(pickled))
    changed = pickled[:place] + bytes([byte]) + pickled[place + drop :]
    target = path.with_name("changed.pt")
    hostile.rewrite(path, target, lambda name, content: changed if name.endswith(".pkl") else content)
    outcome: object
    try:
        outcome = load_object(target)
    except UsageError as error:
        outcome = error.problems[0].mend
    assert outcome is None or isinstance(outcome, nn.Module | dict | list | tuple | str | int | float)


def test_hooks_of_tensors_are_refused(tmp_path: Path) -> None:
    """A tensor's backward hooks are called in training, so none may come from a file."""
    good = hostile.saved({"weight": torch.ones(2)})
    (tmp_path / "good.pt").write_bytes(good)
    with zipfile.ZipFile(tmp_path / "good.pt") as archive:
        pickled = archive.read("archive/data.pkl")
    empty = pickled.index(b"ccollections\nOrderedDict\n")
    end = pickled.index(b")R", empty) + 2
    hooked = pickled[:end] + b"K\x01ctorch.nn.functional\nrelu\ns" + pickled[end:]
    hostile.rewrite(
        tmp_path / "good.pt", tmp_path / "bad.pt", lambda name, content: hooked if name.endswith(".pkl") else content
    )
    with pytest.raises(UnsafeFileError, match="tensor with hooks"):
        load_object(tmp_path / "bad.pt")


def test_every_name_that_is_unknown_is_listed(tmp_path: Path) -> None:
    """One message names all that the file asks for, so that the user sees what it is."""
    hostile.write_pickle(tmp_path / "model.pt", pickle.dumps([Path, pickle.Pickler, zipfile.ZipFile], protocol=2))
    with pytest.raises(UnsafeFileError, match=r"'pathlib.Path', 'pickle.Pickler', 'zipfile.ZipFile'"):
        load_object(tmp_path / "model.pt")


def test_seeded_program_loads_two_sequentials(tmp_path: Path) -> None:
    """PyG names generated code at random and reuses it by name: seeding must not mix two models up."""
    conv, linear, alone = GCNConv(4, 8), nn.Linear(8, 3), GCNConv(4, 3)
    one = Sequential("x, edge_index", [(conv, "x, edge_index -> x"), nn.ReLU(), linear])
    two = Sequential("x, edge_index", [(alone, "x, edge_index -> h")])
    x, edge_index = torch.randn(5, 4), torch.randint(0, 5, (2, 9))
    expected = [linear(conv(x, edge_index).relu()), alone(x, edge_index)]
    for name, model, output in (("one", one, expected[0]), ("two", two, expected[1])):
        torch.save(model, tmp_path / f"{name}.pt")
        random.seed(0)
        loaded = load_object(tmp_path / f"{name}.pt")
        assert isinstance(loaded, nn.Module)
        torch.testing.assert_close(loaded.eval()(x, edge_index), output)
