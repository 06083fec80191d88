from __future__ import annotations

import argparse

import numpy as np
import pytest

from benchmarks import aggregate
from benchmarks.aggregation_ways import MOST_BYTES, Structure
from benchmarks.power_law import PowerLaw
from benchmarks.room import LeftOut, demand, resident_bytes, start_peak


def _process(tmp_path):
    (tmp_path / "status").write_text("Name:\tpython\nVmHWM:\t  12 kB\nVmRSS:\t  7 kB\n")
    return tmp_path


def test_the_peak_starts_anew(tmp_path):
    """Linux is told to forget the peak before it is read."""
    process = _process(tmp_path)
    assert start_peak(process) == 12288
    assert (process / "clear_refs").read_text() == "5"
    assert resident_bytes("VmRSS", process) == 7168


def test_where_the_peak_stays_it_is_the_floor(tmp_path):
    """A system that forbids to forget the peak has it counted as idle memory."""
    process = _process(tmp_path)
    (process / "clear_refs").mkdir()
    assert start_peak(process) == 12288


def test_no_contender_starts_without_room(tmp_path):
    """What is known to take more than is free is left out, with both figures."""
    machine = tmp_path / "meminfo"
    machine.write_text("MemTotal:  9000000 kB\nMemAvailable:  1000000 kB\n")
    demand(1_024_000_000, "it", machine)
    with pytest.raises(LeftOut, match=r"it would take 1\.1 GB, and 1\.0 GB are free"):
        demand(1_100_000_000, "it", machine)


def test_rows_of_all_edges_have_a_limit():
    """What writes down a row for each edge is left out above the limit, whatever is free."""
    structure = Structure.of(np.zeros((2, 4), np.int64), 1)
    structure.demand_rows(8, 2.0)
    with pytest.raises(LeftOut, match=r"with a row for each edge it would take 4\.3 GB$"):
        structure.demand_rows(MOST_BYTES // 32 + 1, 2.0)


def test_a_graph_too_large_for_the_machine_says_so(monkeypatch, capsys):
    """Where ours has no room there is nothing to compare with, and the table says that instead of failing."""

    def refuse(needed_bytes, what):
        raise LeftOut(f"{what} would take more")

    monkeypatch.setattr(aggregate, "demand", refuse)
    given = argparse.Namespace(widths=[8], threads=1, quick=True)
    tables = aggregate.run_graph("power-law", PowerLaw(50, 100), given)
    assert [table.rows for table in tables] == [[], [], []]
    assert {table.left_out["everything"] for table in tables} == {"its features would take more"}
    assert capsys.readouterr().out.count("everything: left out, its features would take more") == 3
