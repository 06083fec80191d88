import json

from gnnexport.measure.environment import describe_environment


def test_environment_is_plain_and_complete():
    """The environment can be written as JSON and names processor, cores, memory and versions."""
    environment = json.loads(json.dumps(describe_environment()))
    assert environment["processor"]
    assert environment["cores"] >= 1
    assert environment["memory_bytes"] > 0
    assert "numpy" in environment["versions"]
