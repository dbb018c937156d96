"""The moving average against torch's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils._python_dispatch import TorchDispatchMode

from launcher.models.optim.ema import MovingAverage

DECAY = 0.9


def make_net() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 5))
    return net.to(memory_format=torch.channels_last)


def change(net: nn.Module) -> None:
    """A training step in short: statistics and weights change in place."""
    net(torch.randn(8, 3, 8, 8))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter))


def torchs_average(net: nn.Module) -> AveragedModel:
    return AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(DECAY), use_buffers=True)  # type: ignore[no-untyped-call]


def floats(net: nn.Module) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in net.state_dict().items() if tensor.is_floating_point()}


@pytest.mark.parametrize("frozen", [False, True])
def test_five_updates_are_those_of_torchs_average_to_the_last_bit(frozen: bool) -> None:
    net = make_net()
    net[0].requires_grad_(not frozen)
    ours, theirs = MovingAverage(net, DECAY), torchs_average(net)
    for _ in range(5):
        change(net)
        ours.update()
        theirs.update_parameters(net)
        expected = floats(theirs.module)
        assert all(torch.equal(tensor, expected[name]) for name, tensor in floats(ours.module).items())
    assert (ours.n_averaged, int(theirs.n_averaged)) == (5, 5)
    assert not torch.equal(floats(ours.module)["3.weight"], floats(net)["3.weight"])


def test_the_first_update_is_a_copy_and_whole_numbers_always_are() -> None:
    net = make_net()
    average = MovingAverage(net, DECAY)
    for step in (1, 2, 3):
        change(net)
        average.update()
        assert int(average.module[1].num_batches_tracked) == step  # type: ignore[index]
        is_copy = all(torch.equal(tensor, floats(net)[name]) for name, tensor in floats(average.module).items())
        assert is_copy == (step == 1)


def test_names_and_layout_are_those_of_the_network() -> None:
    net = make_net()
    average = MovingAverage(net, DECAY)
    for _ in range(2):
        change(net)
        average.update()
    found = {name: (each.dtype, each.stride()) for name, each in average.module.state_dict().items()}
    assert found == {name: (each.dtype, each.stride()) for name, each in net.state_dict().items()}


def test_weights_loaded_into_the_network_are_averaged_from_then_on() -> None:
    net, other = make_net(), make_net()
    average = MovingAverage(net, DECAY)
    change(other)
    net.load_state_dict(other.state_dict())
    average.module.load_state_dict(other.state_dict())
    average.n_averaged = 7
    change(net)
    average.update()
    for name, tensor in floats(average.module).items():
        torch.testing.assert_close(tensor, torch.lerp(floats(other)[name], floats(net)[name], 1 - DECAY))
    assert average.n_averaged == 8


def test_a_network_without_buffers_has_an_average() -> None:
    net = nn.Linear(2, 2)
    average = MovingAverage(net, DECAY)
    average.update()
    average.update()
    torch.testing.assert_close(average.module.state_dict(), net.state_dict())


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Names of the operations that run inside."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_an_update_is_two_operations_whatever_the_number_of_tensors() -> None:
    net = nn.Sequential(*(nn.BatchNorm2d(4) for _ in range(20)))
    average = MovingAverage(net, DECAY)
    average.update()
    with Recorder() as recorder:
        average.update()
    assert recorder.names == ["_foreach_lerp_", "_foreach_copy_"]
