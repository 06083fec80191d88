import subprocess
import sys

import pytest

from tests.unit.tiny_bundle import write_tiny_bundle

BLOCKED = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "torch_geometric", "onnx", "onnx_ir", "onnxscript"}:
            raise ImportError(f"{name} is not installed")

sys.meta_path.insert(0, Blocker())
"""

IMPORT_ALL = """
import importlib, pkgutil
for part in ("measure", "bundle", "runtime", "validate", "report"):
    package = importlib.import_module(f"gnnexport.{part}")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"gnnexport.{part}.{module.name}")
heavy = {"sklearn", "scipy", "onnxruntime"} & set(sys.modules)
assert not heavy, heavy
"""

VALIDATE = """
from gnnexport.report.verdict import judge
from gnnexport.validate.bundle import validate_bundle
outcome = validate_bundle(sys.argv[1], time_budget_s=0.01)
assert judge(outcome.report).exit_code == 0
"""


@pytest.mark.parametrize("body", [IMPORT_ALL, VALIDATE])
def test_a_serving_machine(tmp_path, body):
    """Where torch, torch_geometric and onnx cannot be imported, every module imports and a bundle validates."""
    bundle = write_tiny_bundle(tmp_path / "m")
    command = [sys.executable, "-c", BLOCKED + body, str(bundle)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
