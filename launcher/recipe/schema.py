"""The recipe: one frozen class per YAML section; the text below a field is its description in editors."""

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
    """Which run this is."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] | None = None
    """Letters, digits, `.`, `_`, `-`. null: the recipe file's name."""
    dir: Annotated[str, Field(min_length=1)] | None = None
    """The run folder. null: this recipe's newest unfinished run in `runs/<name>/`, or else a new folder there."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Decides initial weights, the order of samples and augmentation."""
    deterministic: bool = False
    """Deterministic algorithms wherever there are any; the log of each rank names the others. Slower on CUDA."""


Split = Literal["train", "valid", "test"]
Share = Count | Annotated[float, Field(gt=0.0, lt=1.0)] | Literal["rest"]


class Data(Section):
    """The pictures: WebDataset tar shards, and what to pack them from when they are not there yet."""

    source: str | None = None
    """`digits`, `imagefolder:PATH`, `torchvision:NAME` or `synthetic:KxN`. null: shards must be in `dir` already."""
    dir: str | None = None
    """Folder of shards with their manifest, or its fsspec URL: `s3://`, `gs://`, `https://` ... without passwords,
    which fsspec knows where to find. null: `data/<source>-<hash of the packing options>`."""
    remote_cache: Annotated[str, Field(min_length=1)] | None = None
    """Folder that keeps remote shards for all processes and runs of a node; best on a disk of its own. null:
    `data/remote`."""
    remote_cache_gib: Positive = 50.0
    """GiB that it may take; the shards unused longest are removed, and fetched again when needed."""
    remote_tries: Annotated[int, Field(ge=1, le=100)] = 10
    """Failures in a row, with longer and longer pauses (10: two minutes), after which the run ends."""
    root: str | None = None
    """Where the torchvision dataset's files are or go. null: `data/downloads`."""
    classes: Annotated[tuple[str, ...], Field(min_length=2)] | None = None
    """Only these classes, numbered in this order. null: all of the source's."""
    split: dict[Split, Share] | None = None
    """Images per class in file order ({train: 60, valid: 10, test: rest}), or fractions of each class, drawn. null: the
    source's own, or 0.7, 0.15 and the rest where it has none."""
    split_seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Decides which images a fraction draws: apart from `run.seed`, so that seeds are compared on the same images."""
    max_side: Annotated[int, Field(ge=16)] | None = None
    """Pixels. Shrink larger pictures once, when packing. null: keep the original bytes."""
    images_per_shard: Count = 1000
    """Images in one tar."""
    download: bool = True
    """Fetch a torchvision dataset that is not in `root`."""
    workers: Annotated[int, Field(ge=0, le=256)] | None = None
    """Threads per process that read and decode. 0: decode in line. null: this process's share of the cores."""
    decode: Literal["auto", "cpu", "cuda"] = "auto"
    """Where JPEG is decoded: `cpu` by the threads, `cuda` on the GPU by nvJPEG, `auto` where a trial is faster."""
    cache: Literal["auto", "none", "decoded", "device"] = "auto"
    """Decode every image once and keep its pixels: `decoded` in memory that the processes of a node share, `device` on
    each GPU, `auto` on the GPU or else in memory. Only where it has room and images are used more than once."""
    cache_gib: NotNegative = 4.0
    """GiB per split that the cache may take; never more than half of the free memory, or a quarter of a GPU's."""
    on_error: Literal["fail", "skip"] = "fail"
    """What an image does that cannot be read or decoded: it ends the run, or is skipped: another of its batch stands in
    for it without counting, and log, journal and summary name it."""
    max_skipped: Count = 100
    """Images of a split that may be skipped, by all processes together, before the run fails all the same."""
    last_batch: Literal["drop", "wrap"] = "drop"
    """An epoch's incomplete last global batch: left out, or filled up from the epoch's beginning."""
    lanes: Count | None = None
    """Lay the epoch's shards end to end, cut that line into so many lanes, and take every global batch from all lanes
    alike: a node then opens its part of the shards only. Any number of processes that divides it trains the same; it
    must divide `train.global_batch`. null: every image may come at any time, and every node opens every shard."""
    shuffle_images: Count = 131072
    """With `lanes`: how many images are shuffled with one another at a time, neighbours from every lane alike."""

    @property
    def folder(self) -> Path:
        """`dir`, which a loaded recipe always has, as the folder or URL it is."""
        assert self.dir is not None, "load_recipe fills it in"
        return Path(self.dir)


class CrossEntropy(Section):
    """Softmax cross-entropy."""

    name: Literal["cross_entropy"]
    """Which loss."""
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of the target spread evenly over all classes, in training."""


class Bce(Section):
    """Binary cross-entropy on one logit; the data must have two classes."""

    name: Literal["bce"]
    """Which loss."""


Loss = Annotated[CrossEntropy | Bce, Field(discriminator="name")]


class Strategy(Section):
    """How the work is spread and in which precision."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto`: CUDA where it is, else the CPU."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """Automatic mixed precision; fp16 scales the loss and needs CUDA."""
    sync_batchnorm: bool = False
    """BatchNorm statistics over all processes' images instead of each process's own."""
    channels_last: bool = True
    """Memory layout in which convolutions are fastest."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Compile the frozen part of the network. `auto`: when so many images will pass through it that this repays."""
    feature_cache_gib: NotNegative = 20.0
    """Largest size on disk of what the frozen part gives for this run's images, in each stage of freezing. Kept where
    nothing random comes before the end of that part: it then runs once for an image, not once an epoch. 0: not kept."""
    hang_timeout_s: Annotated[float, Field(ge=1.0)] | None = 600.0
    """Seconds in which a process makes no progress, after which all end with a line that says which, where and what the
    others wait for. Preparing and finishing may take an hour. null: wait for ever."""


class Train(Section):
    """How long, in which batches, judged how."""

    epochs: Interval
    """Length of the training: epochs, or `5000st`."""
    global_batch: Count
    """Images per optimizer step over all processes: the same training on any number of devices."""
    micro_batch: Count | None = None
    """Images per forward pass of one process; gradients accumulate. null: global batch / processes, in one pass."""
    eval_batch: Count | None = None
    """Images per forward pass of one process in evaluation. null: the micro batch."""
    evaluate_every: Interval = Duration(1, "ep")
    """Length between two validations; the last step always validates."""
    best_metric: Literal["accuracy", "top5_accuracy", "loss"] = "accuracy"
    """Metric on the valid split that names the best checkpoint."""
    on_nonfinite: Literal["fail", "skip"] = "fail"
    """What a step does whose loss is not finite: it ends the run, or is skipped, on all processes, and named. `skip`
    waits for the loss at every step, and ends the run after ten such steps in a row."""
    patience: Count | None = None
    """Stop after this many validations in a row that did not improve `best_metric`. null: never."""


class Checkpoint(Section):
    """What is saved, beside the best and the last."""

    every: Interval | None = Duration(1, "ep")
    """Length between two checkpoints. null: only the best and the last."""
    keep: Count = 2
    """How many of the newest are kept, beside the best."""
    patience: Count = 3
    """Fail after this many saves in a row that could not be written; training goes on until then."""


class Wandb(Section):
    """Weights & Biases mirrors the journal."""

    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    """`auto`: online where credentials are, else offline."""
    project: Annotated[str, Field(min_length=1)] = "launcher"
    """Project the run is filed under."""
    entity: str | None = None
    """User or team. null: your default."""
    group: str | None = None
    """Runs that belong together. null: the run's name."""
    job_type: str = "train"
    """Kind of run."""
    tags: tuple[str, ...] = ()
    """Labels to filter by."""


class Log(Section):
    """What is written down while training."""

    every: Interval = Duration(50, "st")
    """Length between two train records: `50st` is 50 optimizer steps."""
    samples: bool = False
    """Write a train record at every step, with the ids of its samples and a hash of what augmentation did to them."""
    wandb: Wandb = Wandb()
    """Weights & Biases."""


class Recipe(Section):
    """A training run, whole."""

    run: Run = Run()
    """Which run this is."""
    backbone: Backbone
    """The network."""
    data: Data
    """The pictures."""
    augment: Augment
    """From decoded image to network input."""
    loss: Loss = CrossEntropy(name="cross_entropy")
    """What is minimised."""
    optim: Optim
    """How the weights move."""
    schedule: Schedule = Constant(name="constant")
    """How the learning rate moves, per optimizer step."""
    strategy: Strategy = Strategy()
    """Devices and precision."""
    train: Train
    """How long, in which batches, judged how."""
    checkpoint: Checkpoint = Checkpoint()
    """What is saved."""
    log: Log = Log()
    """What is written down."""
