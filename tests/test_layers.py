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

LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors", "duration", "keyed", "memory", "pulse", "stop", "url", "version"),
    ("world", "recipe", "metrics", "commit", "tensor_file", "images", "pace", "verdict"),
    ("talk",),
    ("data", "augment", "models", "loss", "optim", "log", "strategy", "card"),
    ("checkpoint", "run", "feed", "heartbeat"),
    ("snapshot", "history", "ranks"),
    ("saver",),
    ("feature_store", "decoded_store", "evaluate", "training", "trained"),
    ("extract", "infer", "unreadable"),
    ("learner", "summary", "final_pictures"),
    ("step_result",),
    ("nonfinite",),
    ("input_cost", "left_out", "step"),
    ("record",),
    ("fit",),
    ("ending",),
    ("complete",),
    ("check", "runs"),
    ("submit",),
    (
        "train",
        "fetch",
        "show",
        "probe",
        "cache",
        "bench",
        "verify",
        "sync",
        "watch",
        "compare",
        "evaluation",
        "predict",
        "export",
        "explain",
        "tune",
    ),
    ("cli",),
    ("__main__",),
)
"""Modules and packages of `launcher`. Each imports lower rows only; modules of one package also each other."""

LAZY = (
    {
        ("launcher/cli/training.py", f"launcher.{name}")
        for name in (
            "train",
            "check",
            "fetch",
            "show",
            "probe.main",
            "bench.main",
        )
    }
    | {("launcher/cli/starting.py", f"launcher.{name}") for name in ("tune.main", "verify.main", "submit")}
    | {
        ("launcher/cli/trained.py", f"launcher.{name}")
        for name in (
            "evaluation.main",
            "predict.main",
            "export.main",
            "explain.main",
            "explain.methods",
        )
    }
    | {("launcher/cli/runs.py", "launcher.compare.main")}
    | {("launcher/check.py", "launcher.complete")}
)
"""Imports of our own inside functions: `launcher schema`, `--help` and most of `check` must not wait for torch."""

OWNERS: dict[str, set[str]] = {
    "accelerate": {"launcher/strategy.py"},
    "torch.distributed": {"launcher/strategy.py", "launcher/talk.py"},
    "wandb": {"launcher/log/wandb.py"},
    "wandb_workspaces": {"launcher/compare/wandb_report.py"},
    "rich": {"launcher/log/console.py", "shards/console.py"},
    "yaml": {"launcher/recipe/yaml_text.py"},
    "cyclopts": {
        *(f"launcher/cli/{name}.py" for name in ("main", "outcome", "runs", "starting", "trained", "training")),
        "shards/cli.py",
    },
    "webdataset": {"shards/write.py"},
    "sklearn": {"launcher/probe/regression.py", "shards/sources/digits.py"},
    "scipy": {"launcher/augment/mix.py", "launcher/compare/statistics.py"},
    "matplotlib": {"launcher/log/charts.py"},
    "ax": {"launcher/tune/optimiser.py"},
    "captum": {"launcher/explain/methods.py"},
    "onnx": {"launcher/export/onnx.py"},
    "onnxruntime": {"launcher/export/onnx.py"},
    "onnxscript": {"launcher/export/onnx.py"},
    "timm": {"launcher/models/timm.py"},
    "numba": {"launcher/augment/kernels.py"},
    "huggingface_hub": {"launcher/models/timm.py"},
    "fsspec": {"launcher/data/origin.py"},
    "simplejpeg": {"launcher/data/decode.py"},
    "PIL": {"launcher/data/decode.py", "launcher/log/pictures.py", "shards/images.py", "shards/sources/synthetic.py"},
    "pydantic": {
        f"launcher/recipe/{name}.py"
        for name in ("augment", "augment_pixels", "backbone", "explain", "fields", "lock", "optim", "parse", "schema")
    }
    | {"launcher/tune/search.py"},
}

WITHOUT_TORCH = (
    *("launcher.errors", "launcher.duration", "launcher.world", "launcher.keyed", "launcher.memory", "launcher.commit"),
    *("launcher.run", "launcher.check", "launcher.pulse", "launcher.heartbeat.thread"),
    *("launcher.recipe.parse", "launcher.recipe.plan", "launcher.recipe.resolve", "launcher.recipe.lock"),
    *("launcher.data.order", "launcher.data.features", "launcher.data.prepare", "launcher.log.journal"),
    *(
        "launcher.cache",
        "launcher.sync",
        "launcher.runs",
        "launcher.watch",
        "launcher.compare.main",
        "launcher.log.mirror",
        "launcher.verdict",
        "launcher.cli.main",
        "shards.cli",
        "launcher.augment.draw",
    ),
    *("launcher.augment.draw_color", "launcher.augment.draw_policy", "launcher.augment.draw_warp"),
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


def part_of(module: str) -> str:
    """The module or package of `launcher` that a row of LAYERS names."""
    return module.removeprefix("launcher").removeprefix(".").partition(".")[0]


def row_of(module: str) -> int:
    [row] = [i for i, parts in enumerate(LAYERS) if part_of(module) in parts]
    return row


def test_every_module_has_one_layer() -> None:
    parts = [part for row in LAYERS for part in row]
    assert len(set(parts)) == len(parts)
    assert set(parts) == {part_of(module) for module in MODULES if module.startswith("launcher.")}


@pytest.mark.parametrize("file", [file for file in FILES if file.startswith("launcher/")])
def test_module_imports_lower_layers_only(file: str) -> None:
    module = module_of(file)
    ours = {name for name in own_imports_of(file) if name.startswith("launcher.")}
    upward = {name for name in ours if part_of(name) != part_of(module) and (row_of(name) >= row_of(module))}
    assert upward == set()


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
