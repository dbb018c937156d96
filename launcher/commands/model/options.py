"""The options of the commands that take a trained model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

DEFAULT_CHECKPOINT = "best"
DEFAULT_SPLIT = "test"

Device = Literal["auto", "cpu", "cuda"]
ExportFormat = Literal["torchscript", "onnx", "safetensors", "hf"]
TransformName = Literal["none", "rotate180", "hflip", "vflip"]
Method = Literal["occlusion", "gradient-shap", "integrated-gradients", "gradcam"]


@dataclass(frozen=True)
class DeviceOption:
    device: Device = "auto"
    """Device to compute on; auto: CUDA where there is a GPU, else the CPU."""


@dataclass(frozen=True)
class CheckpointOption:
    checkpoint: str = DEFAULT_CHECKPOINT
    """best, last or a step number."""


@dataclass(frozen=True)
class EvaluateOptions(DeviceOption, CheckpointOption):
    split: str = DEFAULT_SPLIT
    """train, valid or test."""
    data: str | None = None
    """Other images of the same classes: a folder of shards, its URL, or a folder with a folder for each class."""
    transform: TransformName = "none"
    """Transform of every image before it enters the network."""
    output: Path | None = None
    """Folder for the files. Default: `evaluations/SPLIT-CHECKPOINT` in the run's folder."""


@dataclass(frozen=True)
class PredictOptions(DeviceOption):
    top: int = 5
    """Classes to name for each image, the most probable first; all, where the network has fewer."""
    format: Literal["table", "jsonl", "csv"] | None = None
    """Default: by the suffix of --output, else a table."""
    output: Path | None = None
    """File that ends in .txt (a table), .jsonl or .csv. Default: stdout."""
    grid: Path | None = None
    """PNG file for the first 64 images with their predictions."""
    flips: bool = False
    """Average the probabilities of each image and its mirror image."""
    checkpoint: str | None = None
    """best, last or a step number. Default: best."""
    split: str | None = None
    """Split of folders of shards. Default: all splits."""

    def files(self) -> list[tuple[str, Path]]:
        """The files to write: (option, path)."""
        named = (("output", self.output), ("grid", self.grid))
        return [(name, file) for name, file in named if file is not None]


@dataclass(frozen=True, kw_only=True)
class ExportOptions(CheckpointOption):
    format: ExportFormat
    """hf: a folder in the layout of Hugging Face's hub. torchscript and onnx give probabilities; safetensors holds only
    weights."""
    output: Path | None = None
    """The file; for hf the folder, which must not exist. Default: in `exports` in the run's folder."""
    data: Path | None = None
    """Folder of images to check the export on, where the run's own data are gone."""


@dataclass(frozen=True)
class ExplainOptions(DeviceOption, CheckpointOption):
    method: Method = "occlusion"
    """Occlusion (Zeiler and Fergus 2014), gradient SHAP (Lundberg and Lee 2017), integrated gradients (Sundararajan et
    al. 2017) or grad-CAM (Selvaraju et al. 2017)."""
    class_: tuple[str, ...] = ()
    """Class to explain; may be given several times. Default: the predicted class of each image."""
    window: int | None = None
    """Occlusion: side of the covered square, in pixels of the network's input. Default: 15."""
    stride: int | None = None
    """Occlusion: pixels from one square to the next. Default: 8."""
    samples: int | None = None
    """Gradient SHAP: noisy copies of an image; integrated gradients: steps. Default: 50."""
    output: Path | None = None
    """Folder. Default: `explanations` in the run's folder."""
