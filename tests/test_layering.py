"""The import arrows of DESIGN.md, and the size and names of the files."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
TOPS = ("configs", "input_pipeline", "storage", "trainer")
MAX_LINES = 400

BASE = {
    "configs",
    "trainer.chain",
    "trainer.checkpoint",
    "trainer.cluster",
    "trainer.fusion",
    "input_pipeline.processes",
    "input_pipeline.strings",
    "input_pipeline.wordpiece",
    "storage",
    "trainer.ngrams",
    "trainer.trained",
    "trainer.workdir",
}
ROOMS = BASE | {
    "input_pipeline",
    "trainer.modeling",
    "trainer.training",
    "trainer.report",
    "trainer.serving",
}
# Room -> the other rooms it may import.
ALLOWED = {
    "configs": set(),
    "storage": set(),
    "trainer.checkpoint": {"configs", "storage"},
    "trainer.cluster": {"configs"},
    "trainer.fusion": set(),
    "trainer.ngrams": {"input_pipeline", "storage"},
    "trainer.workdir": {"configs", "storage"},
    "trainer.chain": {"configs", "storage"},
    "trainer.trained": {
        "configs",
        "trainer.chain",
        "trainer.checkpoint",
        "trainer.ngrams",
        "trainer.workdir",
    },
    "trainer.preflight": {"configs", "input_pipeline", "storage"},
    "trainer.refusals": set(),
    "input_pipeline.processes": set(),
    "input_pipeline.wordpiece": set(),
    "input_pipeline.strings": {"input_pipeline.wordpiece"},
    "input_pipeline": {
        "configs",
        "input_pipeline.processes",
        "input_pipeline.strings",
        "input_pipeline.wordpiece",
        "storage",
    },
    "trainer.modeling": BASE,
    "trainer.training": BASE,
    "trainer.report": BASE,
    "trainer.serving": BASE | {"trainer.modeling"},
    "trainer.run": ROOMS,
    "trainer.stages": ROOMS | {"trainer.run"},
    "trainer.commands": ROOMS
    | {
        "trainer.preflight",
        "trainer.refusals",
        "trainer.run",
        "trainer.stages",
    },
    "trainer.main": {
        "configs",
        "input_pipeline.processes",
        "trainer.cluster",
        "trainer.commands",
        "trainer.preflight",
        "trainer.refusals",
    },
}
# Module or room -> foreign packages that would blur its purpose.
BANNED = {
    "configs": {"tensorflow", "keras", "keras_hub", "absl"},
    "configs.overrides": {"tensorflow", "keras", "keras_hub"},
    "trainer.cluster": {"tensorflow", "keras"},
    "input_pipeline": {"keras", "keras_hub"},
    "input_pipeline.strings": set(),  # Its layers go into exported models.
    "trainer.commands": {"absl.flags"},
}
NO_NAMES = {"utils", "common", "helpers", "misc"}


def sources():
    """Every source file as a parameter (module, path)."""
    for top in TOPS:
        for path in sorted((ROOT / top).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            module = ".".join(parts).removesuffix(".__init__")
            yield pytest.param(module, path, id=module)


def imports(text):
    """The dotted names that a program imports; relative ones start with "."."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = "." * node.level + (node.module or "")
            yield from (f"{start}.{alias.name}" for alias in node.names)


def within(module, package):
    return f"{module}.".startswith(f"{package}.")


def owner(module, names):
    """The longest of `names` that the module lies in, or ""."""
    return max((n for n in names if within(module, n)), key=len, default="")


def complaints(module, text):
    """What is wrong with the imports of a file."""
    room = owner(module, ALLOWED)
    banned = BANNED.get(owner(module, BANNED), set())
    for name in imports(text):
        target = owner(name, ALLOWED)
        if name.startswith("."):
            yield f"relative import {name}"
        elif not target and name.split(".")[0] in TOPS:
            yield f"{name} names no room"
        elif target and target != room and target not in ALLOWED[room]:
            yield f"{room} must not import {target}"
        elif any(within(name, package) for package in banned):
            yield f"{module} must not import {name}"


@pytest.mark.parametrize(("module", "path"), sources())
def test_file_keeps_to_the_arrows_and_is_short(module, path):
    text = path.read_text()
    assert len(text.splitlines()) <= MAX_LINES
    assert not NO_NAMES & set(module.split("."))
    if module == "trainer":
        assert not list(imports(text))
        return
    assert owner(module, ALLOWED), f"{module} is in no room"
    assert list(complaints(module, text)) == []


def test_xla_is_asked_for_in_few_places():
    # The host of a TPU has no XLA of its own: training and export ask where it
    # is known to be there; the rest looks whether it works, and how fast.
    modules = {
        module
        for module, path in (param.values for param in sources())
        if "jit_compile" in path.read_text()
    }
    assert modules == {
        "trainer.fusion",
        "trainer.training.step",
        "trainer.commands.checkups.devices",
    }


def test_wrong_arrows_are_found():
    for module, text, message in (
        (
            "input_pipeline.stream",
            "from trainer.modeling import heads",
            "input_pipeline must not import trainer.modeling",
        ),
        (
            "configs.schema",
            "def f():\n    import storage",
            "configs must not import storage",
        ),
        (
            "trainer.training.loop",
            "from . import step",
            "relative import ..step",
        ),
        (
            "trainer.commands.pretrain",
            "import trainer",
            "trainer names no room",
        ),
        (
            "trainer.commands.prepare",
            "from absl import flags",
            "trainer.commands.prepare must not import absl.flags",
        ),
    ):
        assert list(complaints(module, text)) == [message]
