"""Write a Program as text: one line a value, with its shape and the module it came from."""

from __future__ import annotations

from typing import Any

from torch import fx

from gnnexport.program.graphs import args_of, module_of, output_node, parameter_of
from gnnexport.program.inputs import NUM_GRAPHS, NUM_NODES, NUM_PAIRS
from gnnexport.program.program import EXAMPLE_NODES, Program, example_counts
from gnnexport.program.shapes import DTYPE, SHAPES


def to_text(program: Program) -> str:
    """Return the readable form of both parts."""
    program = program.clone()
    program.annotate()
    lines = [f"program {program.source}({', '.join(str(item) for item in program.inputs)}) -> {program.output}"]
    if program.prepare is not None:
        lines += ["prepare:  # known once the graph is known", *_body(program.prepare)]
    lines += ["body:", *_body(program.body)]
    return "\n".join(lines)


def _body(module: fx.GraphModule) -> list[str]:
    lines = []
    for node in module.graph.nodes:
        if node.op == "placeholder":
            lines.append(f"  %{node.name}{_type(node)} = input")
        elif node.op == "get_attr":
            value = parameter_of(module, node)
            lines.append(f"  %{node.name}: {_dtype(value.dtype)} {list(value.shape)} = parameter" if value is not None
                         else f"  %{node.name} = constant")  # fmt: skip
        elif node.op == "call_function":
            arguments = ", ".join(
                [*map(_argument, args_of(node)), *(f"{k}={_argument(v)}" for k, v in node.kwargs.items())]
            )
            lines.append(f"  %{node.name}{_type(node)} = {_op_name(node)}({arguments})  # {module_of(node)}")
    lines.append(f"  return {_argument(output_node(module.graph).args[0])}")
    return lines


def _type(node: fx.Node) -> str:
    shapes = node.meta.get(SHAPES)
    if shapes is None:
        return ""
    sizes = [_size(pair) for pair in zip(*shapes, strict=True)]
    return f": {_dtype(node.meta[DTYPE])} [{', '.join(sizes)}]"


def _size(values: tuple[int, ...]) -> str:
    """Name a size that changes with the graph."""
    if len(set(values)) == 1:
        return str(values[0])
    for name, level in ((NUM_NODES, "node"), (NUM_GRAPHS, "graph"), (NUM_PAIRS, "pair")):
        counts = tuple(example_counts(nodes)[level] for nodes in EXAMPLE_NODES)
        if values == counts:
            return name
        if values == tuple(count + 1 for count in counts):
            return f"{name}+1"
    return "edges"


def _dtype(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def _op_name(node: fx.Node) -> str:
    target: Any = node.target
    if hasattr(target, "_schema"):
        return str(target._schema.name).replace("::", ".")
    return str(getattr(target, "__name__", target))


def _argument(value: Any) -> str:
    if isinstance(value, fx.Node):
        return f"%{value.name}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_argument(item) for item in value) + "]"
    return _dtype(value) if str(value).startswith("torch.") else repr(value)
