"""Docstrings read without the name above them, and the examples in them run."""

import doctest
import inspect
import re

import pytest
import torch

import suffice
from tests import signatures
from tests.deploy.bundles import require_exporter

FRAGMENTS = frozenset(
    [
        "Also",
        "And",
        "Another",
        "Any",
        "As",
        "At",
        "Before",
        "Behind",
        "Both",
        "But",
        "By",
        "During",
        "Each",
        "Either",
        "Else",
        "For",
        "From",
        "How",
        "If",
        "In",
        "Into",
        "It",
        "Its",
        "Itself",
        "Likewise",
        "Nothing",
        "Of",
        "On",
        "Or",
        "Other",
        "Others",
        "Out",
        "Over",
        "Same",
        "Some",
        "Such",
        "That",
        "The-same",
        "Them",
        "These",
        "They",
        "Those",
        "Through",
        "To",
        "Under",
        "Up",
        "What",
        "Whatever",
        "When",
        "Where",
        "Whether",
        "Which",
        "Who",
        "Whose",
        "Why",
        "With",
        "Without",
    ]
)
"""First words of a summary that only the name above it would complete."""

EXAMPLES = sorted(
    name
    for name in suffice.__all__
    if callable(getattr(suffice, name)) and name not in ("Answer", "Policy", "Variation")
)
"""Public verbs, and classes that are made by hand."""

MODULES = list(signatures.modules())


def public():
    """Modules, classes, functions, methods and properties with their docstrings, by name."""
    for module in MODULES:
        yield module.__name__, module.__doc__
        for name, value in vars(module).items():
            if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
                continue
            if inspect.isclass(value) or inspect.isfunction(value):
                yield f"{module.__name__}.{name}", value.__doc__
            if inspect.isclass(value):
                yield from of_class(f"{module.__name__}.{name}", value)


def of_class(name, found):
    for attribute, value in vars(found).items():
        if attribute.startswith("_"):
            continue
        function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        if inspect.isfunction(function):
            yield f"{name}.{attribute}", function.__doc__


def fault(docstring):
    """Return what is wrong with the summary of a docstring, or None."""
    summary = " ".join((docstring or "").strip().split("\n\n")[0].split())
    if not re.match(r"[A-Z`(]|\d|[Α-Ω]", summary):
        return "a capital letter first"
    if not summary.endswith((".", ":", "?")):
        return "a full stop"
    words = re.findall(r"[\w'’`.-]+", summary)
    if len(words) < 3:
        return "three words or more"
    if words[0] in FRAGMENTS or summary.startswith(("The same", "The rest", "The other")):
        return "a verb or a noun phrase first"
    return None


def test_summaries_are_sentences_or_noun_phrases():
    faults = [f"{name}: expected {wrong}, got {doc!r:.90}" for name, doc in public() if (wrong := fault(doc))]
    assert not faults, f"{len(faults)} summaries\n" + "\n".join(faults)


@pytest.mark.parametrize(
    "docstring",
    [None, "of a fit, drawn.", "Of a fit, drawn.", "Compute it.", "Compute the mean", "The same in memory."],
)
def test_a_fragment_is_found(docstring):
    assert fault(docstring)


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_public_verb_has_an_example(name):
    found = getattr(suffice, name)
    documented = [found, *(vars(found).values() if inspect.isclass(found) else ())]
    assert any(">>> " in (getattr(one, "__doc__", None) or "") for one in documented)


def examples():
    """Return the docstrings with examples, each with no name but those that it imports."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = [test for module in MODULES for test in finder.find(module, globs={})]
    return [pytest.param(test, id=test.name) for test in found if test.examples]


@pytest.mark.parametrize("example", examples())
@pytest.mark.filterwarnings("ignore:.* ended at the edge of its range")
def test_examples_print_what_they_show(example):
    if example.name.startswith("suffice.deploy"):
        require_exporter()
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert runner.run(example).failed == 0
