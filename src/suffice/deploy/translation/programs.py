"""A traced program as a file of torch itself: a program of `torch.export`, or a package compiled by AOTInductor.

Programs take the inputs of a graph by position, and return a tuple of its outputs, both in the order of the manifest.
"""

import io

import torch
from torch.export import ExportedProgram

from suffice.deploy.graphs.graph import Graph
from suffice.deploy.translation.tracing import quiet
from suffice.utils.text import brief

_NOTES = ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node", "custom")
"""Notes at the operations of a program with the paths, lines and classes of the user's code."""

_OPTIONS = {
    "aot_inductor.package": True,
    "aot_inductor.enable_line_tables": False,  # they hold paths of this machine
    "cpp.dynamic_threads": True,  # as many threads as the process has that runs the package, not this one
}
"""Options of AOTInductor."""


def save(program: ExportedProgram, graph: Graph) -> bytes:
    """Return a traced program as the file that `torch.export.save` writes, without the values of the example.

    Raises:
        ValueError: If torch cannot save it.
    """
    _remove_notes(program)
    program.example_inputs = None  # rows of the user's example
    buffer = io.BytesIO()
    try:
        with quiet():
            torch.export.save(program, buffer)
    except Exception as error:  # of torch
        raise ValueError(
            f"expected {graph.what} as a program that torch.export.save takes, got {_first_line(error)}; pass "
            "format='onnx', or compute it by other operations of torch"
        ) from error
    return buffer.getvalue()


def compile_ahead(program: ExportedProgram, graph: Graph) -> bytes:
    """Return a traced program as a package of AOTInductor, without the sources that were compiled.

    The steps are those of `torch._inductor.aoti_compile_and_package`, whose packages also hold the sources, with the
    command that compiled them.

    Raises:
        ValueError: If AOTInductor cannot compile it.
    """
    from torch._inductor import aot_compile
    from torch._inductor.package.package import package_aoti

    _remove_notes(program)
    buffer, (args, kwargs) = io.BytesIO(), program.example_inputs
    try:
        with quiet(), torch.no_grad():
            files = aot_compile(program.module(check_guards=False), args, kwargs, options=dict(_OPTIONS))
            assert isinstance(files, list)  # with the option "aot_inductor.package"
            package_aoti(buffer, [file for file in files if not str(file).endswith(".cpp")])
    except Exception as error:  # of torch and of the compiler
        raise ValueError(
            f"expected {graph.what} as a program that AOTInductor compiles, got {_first_line(error)}; pass "
            "format='torch', which does not compile it"
        ) from error
    return buffer.getvalue()


def _remove_notes(program: ExportedProgram) -> None:
    """Remove what is noted at the operations of a program, and is not needed to run it."""
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            for note in _NOTES:
                node.meta.pop(note, None)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {brief(str(error).strip().partition(chr(10))[0], 160)}"
