"""Formats of the files in a bundle: each turns a traced program into the bytes of one file.

onnx       ONNX graph, run by ONNX Runtime
torch      program of `torch.export`, loaded by `torch.export.load`
inductor   package compiled by AOTInductor, loaded by `torch._inductor.aoti_load_package`

The name of a file is that of its graph, with the suffix of the format.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

from torch.export import ExportedProgram

from suffice.deploy import checks
from suffice.deploy.graphs.graph import Graph
from suffice.deploy.translation import programs
from suffice.deploy.translation.tracing import translate

FormatName = Literal["onnx", "torch", "inductor"]
"""Name of a format, in `suffice.export` and in manifests."""

SUFFIXES: dict[str, str] = {"onnx": ".onnx", "torch": ".pt2", "inductor": ".pt2"}
"""Suffix of the names of files of each format."""

OPSET = 20
"""Version of the ONNX operators unless another is passed."""


@dataclass(frozen=True)
class Format:
    """Format of the files in a bundle.

    Attributes:
        name: Its name.
        opset: Version of the ONNX operators; None for programs of torch.
        packages: Packages besides torch that write the files.
        to_bytes: Function from a traced program and its graph to the bytes of a file.
    """

    name: FormatName
    opset: int | None
    packages: tuple[str, ...]
    to_bytes: Callable[[ExportedProgram, Graph], bytes]

    @property
    def suffix(self) -> str:
        """Suffix of the names of files."""
        return SUFFIXES[self.name]


def resolve(name: FormatName, opset: int | None) -> Format:
    """Return the format with a name.

    Args:
        name: Name of the format.
        opset: Version of the ONNX operators; None for 20, and for other formats.

    Raises:
        ImportError: If a package that writes it is not installed, or torch is too old.
        RuntimeError: If it needs a C++ compiler and there is none.
        TypeError: For an opset of another type.
        ValueError: For an unknown name or opset, or an opset with a format other than "onnx".
    """
    if name not in get_args(FormatName):
        raise ValueError(f"expected format to be one of {get_args(FormatName)}, got {name!r}")
    if name == "onnx":
        checks.packages(*checks.ONNX)
        version = checks.operators(OPSET if opset is None else opset)
        return Format(name, version, checks.ONNX, partial(translate, opset=version))
    if opset is not None:
        raise ValueError(
            f"expected no opset with format={name!r}, whose programs have no ONNX operators, got {opset!r}; omit it"
        )
    checks.packages()
    if name == "torch":
        return Format(name, None, (), programs.save)
    checks.compiler()
    return Format(name, None, (), programs.compile_ahead)
