"""Write a Program as text: one line a value, with its shape and the module it came from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import fx

from gnnexport.program.graphs import args_of, module_of, output_node, parameter_of
from gnnexport.program.inputs import NUM_GRAPHS, NUM_PAIRS
from gnnexport.program.program import EXAMPLE_NODES, Program, example_counts, example_nodes
from gnnexport.program.shapes import DTYPE, SHAPES

Sizes = Mapping[tuple[int, ...], str]


def to_text(program: Program) -> str:
    """Return the readable form of both parts."""
    program = program.clone()
    program.annotate()
    sizes = _sizes(program)
    lines = [f"program {program.source}({', '.join(str(item) for item in program.inputs)}) -> {program.output}"]
    if program.prepare is not None:
        lines += ["prepare:  # known once the graph is known", *_body(program.prepare, sizes)]
    lines += ["body:", *_body(program.body, sizes)]
    return "\n".join(lines)


def _body(module: fx.GraphModule, sizes: Sizes) -> list[str]:
    lines = []
    for node in module.graph.nodes:
        if node.op == "placeholder":
            lines.append(f"  %{node.name}{_type(node, sizes)} = input")
        elif node.op == "get_attr":
            value = parameter_of(module, node)
            lines.append(f"  %{node.name}: {_dtype(value.dtype)} {list(value.shape)} = parameter" if value is not None
                         else f"  %{node.name} = constant")  # fmt: skip
        elif node.op == "call_function":
            arguments = ", ".join(
                [*map(_argument, args_of(node)), *(f"{k}={_argument(v)}" for k, v in node.kwargs.items())]
            )
            lines.append(f"  %{node.name}{_type(node, sizes)} = {_op_name(node)}({arguments})  # {module_of(node)}")
    lines.append(f"  return {_argument(output_node(module.graph).args[0])}")
    return lines


def _type(node: fx.Node, sizes: Sizes) -> str:
    shapes = node.meta.get(SHAPES)
    if shapes is None:
        return ""
    named = [_size(pair, sizes) for pair in zip(*shapes, strict=True)]
    return f": {_dtype(node.meta[DTYPE])} [{', '.join(named)}]"


def _sizes(program: Program) -> Sizes:
    """Name the sizes that nodes, graphs and pairs have in the examples that shapes are recorded on."""
    names = {NUM_GRAPHS: "graph", NUM_PAIRS: "pair"}
    examples = [
        {**example_nodes(program.inputs, nodes), **{name: example_counts(nodes)[kind] for name, kind in names.items()}}
        for nodes in EXAMPLE_NODES
    ]
    found = {tuple(example[name] for example in examples): name for name in examples[0]}
    more = {tuple(count + 1 for count in counts): f"{name}+1" for counts, name in found.items()}
    return {**more, **found}


def _size(values: tuple[int, ...], sizes: Sizes) -> str:
    """Name a size that changes with the graph."""
    return str(values[0]) if len(set(values)) == 1 else sizes.get(values, "edges")


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
