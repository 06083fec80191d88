from types import SimpleNamespace

import numpy as np
from numpy.lib.npyio import NpzFile

from gnnexport.bundle.reader import Bundle, open_bundle
from gnnexport.runtime import peak
from gnnexport.runtime.peak import peak_memory_bytes, read_peak
from tests.unit.tiny_bundle import write_tiny_bundle


def test_peak_of_a_bundle(tmp_path):
    """The peak is that of the engine and the interpreter, not of this process."""
    assert 10_000_000 < peak_memory_bytes(write_tiny_bundle(tmp_path / "m")) < 500_000_000


def test_a_golden_case_is_run_where_there_is_one(tmp_path, monkeypatch, capsys):
    """Noise is no edge index, so the request comes from the bundle."""
    monkeypatch.setattr(peak, "noise", None)
    assert peak.main(str(write_tiny_bundle(tmp_path / "m"))) == 0
    assert int(capsys.readouterr().out) > 10_000_000


def test_only_the_first_case_is_loaded(tmp_path, monkeypatch):
    """A large test vector is no memory of a server: only what the first case holds is read."""
    bundle = open_bundle(write_tiny_bundle(tmp_path / "m"))
    taken = []
    original = NpzFile.__getitem__

    def record(file, name):
        taken.append(name)
        return original(file, name)

    monkeypatch.setattr(NpzFile, "__getitem__", record)
    everything, taken[:] = bundle.golden(), []
    first = bundle.golden(1)
    assert [case.name for case in first] == [everything[0].name]
    assert first[0].expected.keys() == everything[0].expected.keys()
    assert len(taken) == 3  # description, features, expected output
    read = []
    monkeypatch.setattr(Bundle, "golden", lambda self, count=None: read.append(count) or first)
    assert peak.main(str(bundle.path)) == 0
    assert read == [1]


def test_no_peak_without_a_bundle(tmp_path):
    """What cannot be run has no peak."""
    assert peak_memory_bytes(tmp_path) is None


def test_systems_without_a_status_file(tmp_path):
    """Elsewhere than on Linux the peak is not measured."""
    assert read_peak(tmp_path / "status") is None
    (tmp_path / "status").write_text("Name:\tpython\nVmHWM:\t  12 kB\n")
    assert read_peak(tmp_path / "status") == 12288


def test_request_made_up_for_some_nodes():
    """Of a graph with fewer nodes than a request asks about, all answer, some of them more than once."""
    manifest = SimpleNamespace(mode="batched", graph=SimpleNamespace(nodes=5))
    ids = peak.made_up(manifest)["node_ids"]
    assert ids.dtype == np.int64
    assert set(ids.tolist()) == set(range(5))
