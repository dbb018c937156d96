from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, fx, nn

from launcher.errors import UserError
from launcher.models.frozen.engine import COMPILE_FLOP, Engine, chunk_size, should_compile
from tests.models.frozen.splits import bf16, randomise, relative


class Net(nn.Module):
    """A convolution whose BatchNorm can be folded, or one of the forms where it cannot."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.conv = nn.Conv2d(3, 3, 3, padding=1, bias=form == "bias")
        self.norm = nn.BatchNorm2d(3, affine=form != "no affine", track_running_stats=form != "no statistics")
        self.other_norm = nn.BatchNorm2d(3)
        self.ready = nn.Conv2d(3, 3, 1)

    def forward(self, images_BCHW: Tensor) -> tuple[Tensor]:
        conv, norm, x = self.conv, self.norm, images_BCHW
        if self.form == "shared conv":
            return (norm(conv(x)) + self.other_norm(conv(2 * x)),)
        if self.form == "shared norm":
            return (norm(conv(x)) + norm(self.ready(x)),)
        if self.form == "two users":
            values = conv(x)
            return (norm(values) + values,)
        if self.form == "weight read":
            return (norm(conv(x)) + conv.weight.sum(),)
        if self.form == "no convolution before":
            return (norm(x),)
        return (norm(conv(x)).relu(),)


def engine_of(model: nn.Module) -> Engine:
    return Engine(fx.symbolic_trace(model), nullcontext, None)


def norms_in(engine: Engine) -> int:
    return sum(node.op == "call_module" and "norm" in str(node.target) for node in engine._eager.graph.nodes)


@pytest.mark.parametrize(
    ("form", "num_left"),
    [
        ("plain", 0),
        ("bias", 0),
        ("no affine", 0),
        ("no statistics", 1),
        ("shared conv", 2),
        ("shared norm", 2),
        ("two users", 1),
        ("weight read", 1),
        ("no convolution before", 1),
    ],
)
def test_batchnorm_is_folded_where_values_stay_the_same(form: str, num_left: int) -> None:
    torch.manual_seed(0)
    model, images_BCHW = Net(form), torch.randn(4, 3, 8, 8)
    randomise(model, images_BCHW)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    engine = engine_of(model)
    assert norms_in(engine) == num_left
    with torch.no_grad():
        assert relative(engine(images_BCHW)[0], model(images_BCHW)[0]) < 1e-5
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_timms_own_layers_are_not_folded_as_plain_ones() -> None:
    layers = pytest.importorskip("timm.layers")
    torch.manual_seed(0)
    parts = [layers.ScaledStdConv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3), layers.BatchNormAct2d(8)]
    model, images_BCHW = nn.Sequential(*parts), torch.randn(4, 3, 8, 8)
    randomise(model, images_BCHW)
    wrapped = nn.Sequential(model)
    graph = _leaf_trace(wrapped)
    with torch.no_grad():
        expected = model(images_BCHW)
        assert relative(Engine(graph, nullcontext, None)(images_BCHW)[0], expected[0]) < 1e-5
        with bf16():
            model_bf16 = model(images_BCHW)
        torch.testing.assert_close(Engine(graph, bf16, torch.bfloat16)(images_BCHW)[0], model_bf16[0])


def _leaf_trace(model: nn.Module) -> fx.GraphModule:
    class Tracer(fx.Tracer):
        def is_leaf_module(self, module: nn.Module, name: str) -> bool:
            return not isinstance(module, nn.Sequential)

    return fx.GraphModule(model, Tracer().trace(model))


def test_the_engines_weights_have_amps_type_and_the_networks_do_not() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.LayerNorm(6))
    engine = Engine(fx.symbolic_trace(model), bf16, torch.bfloat16)
    dtypes = {name: tensor.dtype for name, tensor in engine._eager.named_parameters()}
    assert dtypes == {
        **dict.fromkeys(("0.weight", "0.bias"), torch.bfloat16),
        **dict.fromkeys(("1.weight", "1.bias", "3.weight", "3.bias"), torch.float32),
    }
    assert {tensor.dtype for tensor in model.parameters()} == {torch.float32}


def test_values_have_no_gradients() -> None:
    model = Net("plain")
    (values,) = engine_of(model)(torch.randn(2, 3, 8, 8, requires_grad=True))
    assert not values.requires_grad
    assert values.grad_fn is None
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_flop_are_those_of_the_convolution() -> None:
    model = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU())
    # 8 x 8 x 5 sums of 3 x 3 x 3 products, an addition each.
    assert engine_of(model).count_flop(torch.randn(1, 3, 8, 8)) == 2 * 8 * 8 * 5 * 27


@pytest.mark.parametrize(
    ("wanted", "flop", "num_images", "device", "expected"),
    [
        ("on", 1, 1, "cpu", (True, "strategy.compile is on")),
        ("off", 10**12, 10**9, "cuda", (False, "strategy.compile is off")),
        ("auto", 8_000_000_000, 6_250, "cpu", (True, "6,250 images of 8.0 GFLOP repay the compilation")),
        ("auto", 8_000_000_000, 6_249, "cpu", (False, "6,249 images of 8.0 GFLOP would not repay the compilation")),
        ("auto", 8_000_000_000, 6_250, "cuda", (False, "6,250 images of 8.0 GFLOP would not repay the compilation")),
        ("auto", 8_000_000_000, 250_000, "cuda", (True, "250,000 images of 8.0 GFLOP repay the compilation")),
    ],
)
def test_compiling_repays_from_a_number_of_flop(
    wanted: str, flop: int, num_images: int, device: str, expected: tuple[bool, str]
) -> None:
    assert should_compile(wanted, flop, num_images, device) == expected  # type: ignore[arg-type]
    assert set(COMPILE_FLOP) == {"cpu", "cuda"}


@pytest.mark.parametrize(
    ("num", "side", "expected"),
    [(32, 224, 16), (33, 224, 11), (16, 224, 16), (17, 224, 9), (5, 900, 1), (1, 4000, 1), (512, 32, 512)],
)
def test_chunks_are_equal_and_fit_the_caches(num: int, side: int, expected: int) -> None:
    assert chunk_size(torch.empty(num, 3, side, side, device="cpu", dtype=torch.uint8)) == expected
    assert chunk_size(torch.empty(num, 3, side, side, device="meta")) == num


def test_chunks_give_the_values_of_the_whole_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images_BCHW = Net("plain"), torch.randn(10, 3, 8, 8)
    engine = engine_of(model)
    expected = engine(images_BCHW)[0]
    seen: list[int] = []
    engine._eager.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    monkeypatch.setattr("launcher.models.frozen.engine.CPU_PIXELS", 4 * 8 * 8)
    torch.testing.assert_close(engine(images_BCHW)[0], expected, rtol=1e-5, atol=1e-5)
    assert seen == [4, 4, 2]


def test_compiled_values_are_those_of_eager_for_every_batch_size() -> None:
    torch.manual_seed(0)
    model, images_BCHW = Net("plain"), torch.randn(10, 3, 8, 8)
    randomise(model, images_BCHW)
    engine = engine_of(model)
    expected = engine(images_BCHW)[0]
    engine.compile(images_BCHW[:4])
    for num in (1, 3, 4, 5, 8, 10):
        (values,) = engine(images_BCHW[:num])
        assert not values.requires_grad
        torch.testing.assert_close(values, expected[:num], rtol=1e-5, atol=1e-5)
    engine.use_eager()
    assert torch.equal(engine(images_BCHW)[0], expected)


def test_a_failed_compilation_is_a_user_error_and_leaves_eager(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> object:
        def call(images_BCHW: Tensor) -> None:
            raise RuntimeError("no C++ compiler\n  found: " + "x" * 500)

        return call

    monkeypatch.setattr(torch, "compile", broken)
    engine, images_BCHW = engine_of(Net("plain")), torch.randn(3, 3, 8, 8)
    expected = engine(images_BCHW)[0]
    with pytest.raises(
        UserError, match=r"^strategy.compile: no C\+\+ compiler found: x+; set it to off, or install a C\+\+ compiler$"
    ) as error:
        engine.compile(images_BCHW[:2])
    assert len(str(error.value)) < 300
    assert torch.equal(engine(images_BCHW)[0], expected)
