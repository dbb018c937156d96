"""Who may import whom, read from the source: the layers of the package, and the one owner of each outside library."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

ROOMS: dict[str, tuple[str, set[str]]] = {
    "recipe": ("YAML -> Recipe -> Plan: every batch, step and interval a whole number", set()),
    "metrics": ("whole-number counts summed over processes, and the metrics they give", set()),
    "distributed": ("this process among the others: devices, precision, collectives, signals, hangs", {"recipe"}),
    "augment": ("batches of images and what is done to them, the same on CPU and GPU", {"recipe"}),
    "models": ("networks, what of them is frozen, their losses and optimizers", {"recipe"}),
    "run": ("the run folder: journal, console, W&B, charts, and reading them back", {"recipe", "metrics"}),
    "data": ("shards, here or far away, -> examples on the device", {"recipe", "augment", "models", "distributed"}),
    "checkpoint": (
        "the state of a training on disk, complete or not there",
        {"recipe", "metrics", "distributed", "models", "run"},
    ),
    "train": (
        "one training, from recipe to summary",
        {"recipe", "metrics", "distributed", "augment", "models", "run", "data", "checkpoint"},
    ),
    "commands": (
        "every other command; those of one folder never import those of another",
        {"recipe", "metrics", "distributed", "augment", "models", "run", "data", "checkpoint", "train"},
    ),
    "cli": ("words typed -> commands; errors -> exit codes", {"recipe", "distributed", "train", "commands"}),
}
"""Packages of `launcher`, lowest first: what is in each, and which others it imports. All import the ground, which is
the modules beside them, and `shards`."""

GROUND = "launcher/*.py", "what every room may use: errors and exit codes, keyed random numbers, text, versions"


def render_rooms() -> str:
    """The table in CONTRIBUTING, the highest room first."""
    rows = [f"| `{room}/` | {sentence} | {', '.join(sorted(imports))} |" for room, (sentence, imports) in ROOMS.items()]
    ground = f"| `{GROUND[0]}` | {GROUND[1]} | |"
    return "\n".join(["| room | what is in it | imports |", "|---|---|---|", *reversed(rows), ground, ""])


LAZY = {
    *(
        ("launcher/cli/main.py", f"launcher.{name}")
        for name in (
            "train.main",
            "commands.recipe.check",
            "commands.recipe.fetch",
            "commands.recipe.show",
            "commands.recipe.probe.main",
            "commands.recipe.bench.main",
            "commands.jobs.tune.main",
            "commands.jobs.verify_resume.main",
            "commands.jobs.submit",
            "commands.model.evaluate.main",
            "commands.model.predict.main",
            "commands.model.export.main",
            "commands.model.explain.main",
            "commands.runs.compare.main",
        )
    ),
    ("launcher/train/prepare.py", "launcher.train.complete"),
}
"""Imports of our own inside functions: `launcher schema`, `--help` and most of `check` must not wait for torch."""

OWNERS: dict[str, set[str]] = {
    "accelerate": {"launcher/distributed/strategy.py"},
    "torch.distributed": {"launcher/distributed/comm.py"},
    "wandb": {"launcher/run/wandb.py"},
    "wandb_workspaces": {"launcher/commands/runs/compare/wandb_report.py"},
    "rich": {"launcher/run/console.py", "shards/console.py"},
    "yaml": {"launcher/recipe/yaml_text.py"},
    "cyclopts": {"launcher/cli/main.py", "launcher/cli/outcome.py", "shards/cli.py"},
    "webdataset": {"shards/write.py"},
    "sklearn": {"launcher/commands/recipe/probe/regression.py", "shards/sources/digits.py"},
    "scipy": {"launcher/augment/mix.py", "launcher/commands/runs/compare/statistics.py"},
    "matplotlib": {"launcher/run/charts.py"},
    "ax": {"launcher/commands/jobs/tune/optimiser.py"},
    "captum": {"launcher/commands/model/explain/methods.py"},
    "onnx": {"launcher/commands/model/export/onnx.py"},
    "onnxruntime": {"launcher/commands/model/export/onnx.py"},
    "onnxscript": {"launcher/commands/model/export/onnx.py"},
    "timm": {"launcher/models/timm.py"},
    "numba": {"launcher/augment/kernels.py"},
    "huggingface_hub": {"launcher/models/timm.py"},
    "fsspec": {"launcher/data/remote/store.py"},
    "simplejpeg": {"launcher/data/decode.py"},
    "PIL": {"launcher/data/decode.py", "launcher/run/image_grid.py", "shards/images.py", "shards/sources/synthetic.py"},
    "pydantic": {
        f"launcher/recipe/{name}.py"
        for name in ("augment", "augment_pixels", "backbone", "messages", "fields", "lock", "optim", "parse", "schema")
    }
    | {"launcher/commands/jobs/tune/search.py"},
}

WITHOUT_TORCH = (
    *(
        "launcher.errors",
        "launcher.recipe.duration",
        "launcher.distributed.world",
        "launcher.keyed_random",
        "launcher.malloc",
        "launcher.checkpoint.atomic",
    ),
    *(
        "launcher.run.folder",
        "launcher.commands.recipe.check",
        "launcher.distributed.watchdog.beacon",
        "launcher.distributed.watchdog.thread",
    ),
    *("launcher.recipe.parse", "launcher.recipe.plan", "launcher.recipe.resolve", "launcher.recipe.lock"),
    *("launcher.data.order", "launcher.data.features.format", "launcher.data.prepare", "launcher.run.journal"),
    *(
        "launcher.commands.runs.feature_cache",
        "launcher.commands.runs.sync",
        "launcher.commands.runs.list",
        "launcher.commands.runs.watch",
        "launcher.commands.runs.compare.main",
        "launcher.run.mirror",
        "launcher.train.bottleneck",
        "launcher.cli.main",
        "shards.cli",
        "launcher.augment.draw",
    ),
    *("launcher.augment.draw_color", "launcher.augment.draw_policy", "launcher.augment.draw_warp"),
    "launcher.augment.sizes",
)

FILES = [str(path.relative_to(ROOT)) for name in ("launcher", "shards") for path in sorted((ROOT / name).rglob("*.py"))]
TREES = {file: ast.parse((ROOT / file).read_text()) for file in FILES}


def module_of(file: str) -> str:
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


MODULES = {module_of(file) for file in FILES}


def imported(node: ast.AST) -> list[str]:
    """Full names of the modules that an import statement names; [] for any other node."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute"
        whole = [f"{node.module}.{alias.name}" for alias in node.names]
        return [name if name in MODULES else str(node.module) for name in whole] + [
            name for name in whole if name in OWNERS
        ]
    return []


def imports_of(file: str) -> set[str]:
    return {name for node in ast.walk(TREES[file]) for name in imported(node)}


def own_imports_of(file: str) -> set[str]:
    return {name for name in imports_of(file) if name.partition(".")[0] in ("launcher", "shards")}


def inside_functions(file: str) -> Iterator[str]:
    for function in ast.walk(TREES[file]):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            for node in ast.walk(function):
                yield from imported(node)


def room_of(module: str) -> str:
    """The key of ROOMS that a module is in; `` on the ground."""
    name = module.removeprefix("launcher").removeprefix(".").partition(".")[0]
    return name if name in ROOMS else ""


def command_folder_of(module: str) -> str:
    return ".".join(module.split(".")[:3]) if room_of(module) == "commands" else ""


def test_a_room_imports_only_rooms_above_it_in_the_table() -> None:
    known: set[str] = set()
    for room, (_, imports) in ROOMS.items():
        assert imports <= known, room
        known.add(room)


def test_every_package_is_a_room() -> None:
    assert {path.name for path in (ROOT / "launcher").iterdir() if (path / "__init__.py").exists()} == set(ROOMS)


@pytest.mark.parametrize("file", [file for file in FILES if file.startswith("launcher/")])
def test_module_imports_rooms_of_its_row_only(file: str) -> None:
    module = module_of(file)
    if file in ("launcher/__main__.py", "launcher/__init__.py"):
        return
    room = room_of(module)
    allowed = {"", room} | (ROOMS[room][1] if room else set())
    ours = {name for name in own_imports_of(file) if name.startswith("launcher.")}
    assert {name for name in ours if room_of(name) not in allowed} == set()


@pytest.mark.parametrize("room", ROOMS)
def test_room_imports_every_room_of_its_row(room: str) -> None:
    files = [file for file in FILES if file.startswith(f"launcher/{room}/")]
    used = {room_of(name) for file in files for name in own_imports_of(file) if name.startswith("launcher.")}
    assert used - {"", room} == ROOMS[room][1]


@pytest.mark.parametrize("file", [file for file in FILES if file.startswith("launcher/commands/")])
def test_a_command_imports_none_of_another_folder(file: str) -> None:
    folder = command_folder_of(module_of(file))
    others = {name for name in own_imports_of(file) if command_folder_of(name) not in ("", folder)}
    assert others == set()


def test_there_is_no_cycle() -> None:
    graph = {module_of(file): own_imports_of(file) - {"launcher", "shards", module_of(file)} for file in FILES}
    assert len(list(graphlib.TopologicalSorter(graph).static_order())) >= len(MODULES) - 2


def test_packages_themselves_import_nothing_of_launcher() -> None:
    packages = [file for file in FILES if file.startswith("launcher/") and file.endswith("__init__.py")]
    assert {file: own_imports_of(file) for file in packages} == {file: set() for file in packages}


def test_own_imports_stand_at_the_top() -> None:
    lazy = {
        (file, name)
        for file in FILES
        for name in inside_functions(file)
        if name.partition(".")[0] in ("launcher", "shards")
    }
    assert lazy == LAZY


def test_nothing_is_imported_by_a_computed_name() -> None:
    names = {"__import__", "import_module"}
    assert [
        file
        for file, tree in TREES.items()
        for node in ast.walk(tree)
        if (isinstance(node, ast.Name) and node.id in names) or (isinstance(node, ast.Attribute) and node.attr in names)
    ] == []


def test_shards_stand_alone() -> None:
    shards = [file for file in FILES if file.startswith("shards/")]
    assert {name for file in shards for name in own_imports_of(file) if name.startswith("launcher")} == set()


@pytest.mark.parametrize("library", OWNERS)
def test_outside_library_has_its_owner(library: str) -> None:
    importers = {
        file for file in FILES if any(name == library or name.startswith(f"{library}.") for name in imports_of(file))
    }
    assert importers == OWNERS[library]


def test_torch_distributed_is_not_reached_through_torch() -> None:
    reached = {
        file
        for file, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr == "distributed"
        and isinstance(node.value, ast.Name)
        and node.value.id == "torch"
    }
    assert reached <= OWNERS["torch.distributed"]


def test_recipes_and_the_command_line_do_not_load_torch() -> None:
    program = f"""
import sys
{"; ".join(f"import {module}" for module in WITHOUT_TORCH)}
print(*sorted({{"torch", "torchvision", "accelerate", "wandb", "webdataset", "sklearn"}} & set(sys.modules)))
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert ended.stdout == "\n"


def test_recipe_package_is_free_of_torch_whole() -> None:
    recipe = {module_of(file) for file in FILES if file.startswith("launcher/recipe/")}
    program = f"import sys, {', '.join(sorted(recipe))}; print('torch' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert ended.stdout == "False\n"


if __name__ == "__main__":
    print(render_rooms(), end="")
