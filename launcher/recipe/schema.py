"""The recipe: one frozen class per YAML section. The docstring of a field is its help in editors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from launcher.recipe.augment import Augment
from launcher.recipe.backbone import Backbone
from launcher.recipe.duration import Duration
from launcher.recipe.fields import Count, Interval, NotNegative, Positive, Section
from launcher.recipe.optim import Constant, Optim, Schedule


class Run(Section):
    """Name, folder and seed of the run."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] | None = None
    """Name of the run: letters, digits, `.`, `_`, `-`. null: the name of the recipe file."""
    dir: Annotated[str, Field(min_length=1)] | None = None
    """Run folder. null: the newest unfinished run of this recipe in `runs/<name>/`, or else a new folder there."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of the initial weights, the order of samples and augmentation."""
    deterministic: bool = False
    """Use deterministic algorithms where they exist; the log of each rank names the others. Slower on CUDA."""


Split = Literal["train", "valid", "test"]
Share = Count | Annotated[float, Field(gt=0.0, lt=1.0)] | Literal["rest"]


class Data(Section):
    """The images: WebDataset tar shards, and the source to pack them from."""

    source: str | None = None
    """Source to pack: `digits`, `imagefolder:PATH`, `torchvision:NAME` or `synthetic:KxN`. null: `dir` has the
    shards."""
    dir: str | None = None
    """Folder of the shards and their manifest, or its fsspec URL: `s3://`, `gs://`, `https://` ... without passwords,
    which fsspec finds itself. null: `data/<source>-<hash of the packing options>`."""
    remote_cache: Annotated[str, Field(min_length=1)] | None = None
    """Folder that caches remote shards for all ranks and runs of a node; best on a disk of its own. null:
    `data/remote`."""
    remote_cache_gib: Positive = 50.0
    """Size limit of that folder in GiB; the least recently used shards are removed, and fetched again when needed."""
    remote_tries: Annotated[int, Field(ge=1, le=100)] = 10
    """Failed tries in a row after which the run ends; the pauses between them grow (10 tries: two minutes)."""
    root: str | None = None
    """Folder of the torchvision dataset, read or downloaded. null: `data/downloads`."""
    classes: Annotated[tuple[str, ...], Field(min_length=2)] | None = None
    """Classes to use, numbered in this order. null: all classes of the source."""
    split: dict[Split, Share] | None = None
    """Images per class in file order ({train: 60, valid: 10, test: rest}), or fractions of each class, drawn at random.
    null: the splits of the source, or 0.7, 0.15 and the rest where it has none."""
    split_seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of the fractions, apart from `run.seed`: runs with other seeds are compared on the same images."""
    max_side: Annotated[int, Field(ge=16)] | None = None
    """Longest side in pixels; packing shrinks larger images once. null: keep the original bytes."""
    images_per_shard: Count = 1000
    """Images per tar file."""
    download: bool = True
    """Download a torchvision dataset that is not in `root`."""
    workers: Annotated[int, Field(ge=0, le=256)] | None = None
    """Threads per rank that read and decode. 0: only the main thread. null: this rank's share of the CPU cores."""
    decode: Literal["auto", "cpu", "cuda"] = "auto"
    """Decoder of JPEG: `cpu` in the worker threads, `cuda` by nvJPEG on the GPU. `auto` means `cpu` for now: nvJPEG has
    not been tested beside a training yet."""
    cache: Literal["auto", "none", "decoded", "device"] = "auto"
    """Decode every image once and keep its pixels: `decoded` in memory that the ranks of a node share, `device` on each
    GPU, `auto` on the GPU or else in memory. Only if they fit and images are used more than once."""
    cache_gib: NotNegative = 4.0
    """Size limit of the cache per split in GiB; never more than half of the free memory, or on a GPU, for
    all splits together, a quarter of what is free."""
    on_error: Literal["fail", "skip"] = "fail"
    """Policy for an image that cannot be read or decoded. `fail`: the run ends. `skip`: another image of its batch
    takes its place without counting; log, journal and summary name the skipped image."""
    max_skipped: Count = 100
    """Skipped images per split, over all ranks, above which the run fails."""
    last_batch: Literal["drop", "wrap"] = "drop"
    """Policy for the incomplete last global batch of an epoch. `drop`: its images are dropped. `wrap`: images from the
    beginning of the epoch fill it up."""
    lanes: Count | None = None
    """Number of equal parts (lanes) of an epoch's shards, laid end to end, from which every global batch takes equally:
    a node then opens only its part of the shards. It must divide `train.global_batch`; any number of ranks that divides
    it trains the same. null: any image may come at any time, and every node opens every shard."""
    shuffle_images: Count = 131072
    """Images shuffled together, with `lanes`: neighbors of each lane, as many from every lane."""

    @property
    def folder(self) -> Path:
        """`dir` of a loaded recipe, which always has one."""
        assert self.dir is not None, "load_recipe fills it in"
        return Path(self.dir)


class CrossEntropy(Section):
    """Softmax cross-entropy."""

    name: Literal["cross_entropy"]
    """Name of the loss."""
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Fraction of the target spread evenly over all classes, in training."""


class Bce(Section):
    """Binary cross-entropy on one logit; the data must have two classes."""

    name: Literal["bce"]
    """Name of the loss."""


Loss = Annotated[CrossEntropy | Bce, Field(discriminator="name")]


class Strategy(Section):
    """Devices, precision and the frozen part."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device to train on. `auto`: CUDA if available, else the CPU."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """Automatic mixed precision; fp16 scales the loss and needs CUDA."""
    sync_batchnorm: bool = False
    """Compute BatchNorm statistics over the images of all ranks, not of each rank alone."""
    channels_last: bool = True
    """Use the memory layout in which convolutions are fastest."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Compile the frozen part of the network. `auto`: when enough images will pass through it to repay that."""
    feature_cache_gib: NotNegative = 20.0
    """Size limit on disk, in GiB, of the features that the frozen part computes from this run's images, per stage of
    freezing. They are kept when nothing random precedes the end of that part, which then runs once per image, not per
    epoch. 0: not kept."""
    hang_timeout_s: Annotated[float, Field(ge=1.0)] | None = 600.0
    """Seconds without progress of a rank after which all ranks end. The error names the rank, its position and what the
    others wait for. Preparing and finishing may take an hour. null: no limit."""


class Train(Section):
    """Length, batches and validation of the training."""

    epochs: Interval
    """Length of the training: epochs, or optimizer steps such as `5000st`."""
    global_batch: Count
    """Images per optimizer step over all ranks: the same training on any number of devices."""
    micro_batch: Count | None = None
    """Images per forward pass of one rank; gradients accumulate. null: global batch / ranks, in one pass."""
    eval_batch: Count | None = None
    """Images per forward pass of one rank in evaluation. null: the micro batch."""
    evaluate_every: Interval = Duration(1, "ep")
    """Length between two validations; the last step always validates."""
    best_metric: Literal["accuracy", "top5_accuracy", "loss"] = "accuracy"
    """Metric on the valid split that selects the best checkpoint."""
    on_nonfinite: Literal["fail", "skip"] = "fail"
    """Policy for a step with a loss that is not finite. `fail`: the run ends. `skip`: all ranks skip the step and
    report it; this waits for the loss at every step, and ends the run after ten such steps in a row."""
    patience: Count | None = None
    """Validations in a row without a better `best_metric` after which the training stops. null: never stop early."""


class Checkpoint(Section):
    """Checkpoints beside the best and the last."""

    every: Interval | None = Duration(1, "ep")
    """Length between two checkpoints. null: only the best and the last."""
    keep: Count = 2
    """Number of newest checkpoints to keep, beside the best."""
    patience: Count = 3
    """Failed saves in a row after which the run fails; training continues until then."""


class Wandb(Section):
    """Weights & Biases, which mirrors the journal."""

    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    """Mode of W&B. `auto`: online if there are credentials, else offline."""
    project: Annotated[str, Field(min_length=1)] = "launcher"
    """Project of the run."""
    entity: str | None = None
    """User or team. null: your default."""
    group: str | None = None
    """Group of runs that belong together. null: the name of the run."""
    job_type: str = "train"
    """Type of the run."""
    tags: tuple[str, ...] = ()
    """Tags to filter by."""


class Log(Section):
    """Records written during the training."""

    every: Interval = Duration(50, "st")
    """Length between two train records: `50st` is 50 optimizer steps."""
    samples: bool = False
    """Write a train record at every step, with the ids of its samples and hashes of their augmentation parameters."""
    wandb: Wandb = Wandb()
    """Weights & Biases."""


class Recipe(Section):
    """A training run."""

    run: Run = Run()
    """Name, folder and seed of the run."""
    backbone: Backbone
    """The network."""
    data: Data
    """The images."""
    augment: Augment
    """Operations from the decoded image to the network input."""
    loss: Loss = CrossEntropy(name="cross_entropy")
    """Loss to minimize."""
    optim: Optim
    """Optimizer."""
    schedule: Schedule = Constant(name="constant")
    """Learning rate per optimizer step."""
    strategy: Strategy = Strategy()
    """Devices and precision."""
    train: Train
    """Length, batches and validation of the training."""
    checkpoint: Checkpoint = Checkpoint()
    """Checkpoints beside the best and the last."""
    log: Log = Log()
    """Records written during the training."""
