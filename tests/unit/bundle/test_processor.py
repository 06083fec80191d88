from gnnexport.bundle.processor import read_cpuinfo, usable_cores

CPUINFO = """processor\t: 0
model name\t: Fast CPU
flags\t\t: fpu avx2 avx512f rdrand

processor\t: 1
model name\t: Other CPU
"""


def test_cpuinfo():
    """Name and telling features come from the first processor."""
    processor = read_cpuinfo(CPUINFO, fallback="unknown")
    assert processor.name == "Fast CPU"
    assert processor.features == ("avx2", "avx512f")


def test_without_cpuinfo():
    """A system without the file still has a name."""
    assert read_cpuinfo("", fallback="arm").name == "arm"


def test_container_quota(tmp_path):
    """A container's quota bounds the cores, rounded up, and one core is the least."""
    quota = tmp_path / "cpu.max"
    quota.write_text("10000 100000\n")
    assert usable_cores(quota) == 1
    quota.write_text("max 100000\n")
    assert usable_cores(quota) == usable_cores(tmp_path / "absent")
