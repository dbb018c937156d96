from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from launcher.errors import UserError
from launcher.models.weights import load_weights, read_weights
from launcher.models.zoo import build_model
from launcher.recipe.backbone import Backbone, Head

State = dict[str, Tensor]


def build_saved(num_classes: int = 1000) -> State:
    torch.manual_seed(1)
    state: State = torchvision.models.resnet18(num_classes=num_classes).state_dict()
    return state


def prefixed(prefix: str) -> Callable[[State], Any]:
    return lambda state: {prefix + name: tensor for name, tensor in state.items()}


FORMS: dict[str, Callable[[State], Any]] = {
    "plain": lambda state: state,
    "state_dict": lambda state: {"epoch": 3, "state_dict": state},
    "model": lambda state: {"optimizer": {"lr": 0.1}, "model": state},
    "both": lambda state: {"state_dict": {"model": state}},
    "module.": prefixed("module."),
    "_orig_mod.": prefixed("_orig_mod."),
    "model.": prefixed("model."),
    "module._orig_mod.": prefixed("module._orig_mod."),
    "_orig_mod.module.": prefixed("_orig_mod.module."),
    "nested and prefixed": lambda state: {"state_dict": prefixed("model.")(state)},
}


def assert_loaded(model: nn.Module, saved: State, but: str) -> None:
    loaded = model.state_dict()
    assert {key for key in saved if key in loaded and torch.equal(loaded[key], saved[key])} == {
        key for key in saved if not key.startswith(but)
    }


@pytest.mark.parametrize("suffix", ["pt", "pth"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_state_dict_is_loaded(tmp_path: Path, form: str, suffix: str) -> None:
    saved, file = build_saved(), tmp_path / f"w.{suffix}"
    torch.save(FORMS[form](saved), file)
    assert_loaded(build_model(Backbone(name="resnet18", weights=str(file)), 3).model, saved, but="fc.")


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
def test_safetensors_are_loaded(tmp_path: Path, prefix: str) -> None:
    saved, file = build_saved(), tmp_path / "w.safetensors"
    save_file(prefixed(prefix)(saved), file)
    assert_loaded(build_model(Backbone(name="resnet18", weights=str(file)), 3).model, saved, but="fc.")


def test_a_prefix_that_the_network_itself_has_stays(tmp_path: Path) -> None:
    net = nn.ModuleDict({"model": nn.Linear(2, 2)})
    torch.save(net.state_dict(), tmp_path / "w.pt")
    assert set(read_weights(tmp_path / "w.pt", net.state_dict())) == {"model.weight", "model.bias"}


@pytest.mark.parametrize("num_classes", [5, 1000])
@pytest.mark.parametrize("head", [Head(), Head(hidden=(8,))])
def test_a_new_head_takes_files_of_any_number_of_classes(tmp_path: Path, num_classes: int, head: Head) -> None:
    saved, file = build_saved(num_classes), tmp_path / "w.pt"
    torch.save(saved, file)
    network = build_model(Backbone(name="resnet18", weights=str(file), head=head), num_classes)
    assert_loaded(network.model, saved, but="fc.")


def test_keep_keeps_the_classifier_of_the_file(tmp_path: Path) -> None:
    saved, file = build_saved(5), tmp_path / "w.pt"
    torch.save(saved, file)
    backbone = Backbone(name="resnet18", weights=str(file), head="keep")
    model = build_model(backbone, 5).model
    assert_loaded(model, saved, but="nothing")
    with pytest.raises(UserError, match="keep has 5 outputs, data and loss need 3"):
        build_model(backbone, 3)


def test_tensors_that_do_not_fit_are_named_and_counted(tmp_path: Path) -> None:
    saved = build_saved()
    for name in ("bn1.weight", "bn1.bias", "layer1.0.conv1.weight", "layer1.0.conv2.weight"):
        del saved[name]
    saved["conv1.weight"] = torch.zeros(64, 1, 7, 7)
    saved["neck.weight"] = torch.zeros(1)
    file = tmp_path / "w.pt"
    torch.save(saved, file)
    with pytest.raises(UserError) as error:
        build_model(Backbone(name="resnet18", weights=str(file)), 3)
    assert str(error.value) == (
        f"backbone.weights: {file} does not fit backbone.name: "
        "4 missing (bn1.weight, bn1.bias, layer1.0.conv1.weight, ...); 1 unexpected (neck.weight); "
        "1 of another shape (conv1.weight [64, 1, 7, 7] for [64, 3, 7, 7])"
    )


def test_tensors_that_do_not_fit_change_nothing() -> None:
    net = nn.Linear(2, 2)
    before = net.weight.clone()
    with pytest.raises(UserError, match=r"1 missing \(bias\)$"):
        load_weights(net, {"weight": torch.ones(2, 2)}, (), Path("w.pt"))
    assert torch.equal(net.weight, before)


def test_a_module_is_skipped_by_its_whole_name() -> None:
    net = nn.ModuleDict({"fc": nn.Linear(2, 2), "fc2": nn.Linear(2, 2)})
    with pytest.raises(UserError, match=r"2 missing \(fc2.weight, fc2.bias\)$"):
        load_weights(net, {}, ("fc",), Path("w.pt"))


def test_counters_of_batchnorm_may_be_missing(tmp_path: Path) -> None:
    saved = {name: tensor for name, tensor in build_saved().items() if not name.endswith("num_batches_tracked")}
    torch.save(saved, tmp_path / "w.pt")
    model = build_model(Backbone(name="resnet18", weights=str(tmp_path / "w.pt")), 3).model
    assert_loaded(model, saved, but="fc.")


@pytest.mark.parametrize(("aux_in_file", "freeze"), [(True, "backbone"), (False, "none"), (False, "backbone")])
def test_auxiliary_classifiers_may_be_in_file_or_network_only(tmp_path: Path, aux_in_file: bool, freeze: str) -> None:
    saved: State = torchvision.models.googlenet(aux_logits=aux_in_file, init_weights=False).state_dict()
    torch.save(saved, tmp_path / "w.pt")
    backbone = Backbone.model_validate({"name": "googlenet", "weights": str(tmp_path / "w.pt"), "freeze": freeze})
    with pytest.MonkeyPatch.context() as patch:  # 10 s of random numbers
        patch.setattr("torch.nn.init.trunc_normal_", lambda tensor, **_: tensor)
        model = build_model(backbone, 3).model
    trunk = {name: tensor for name, tensor in saved.items() if not name.startswith("aux")}
    assert_loaded(model, trunk, but="fc.")


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("executed",)


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors", "w.pth"])
def test_a_file_of_another_kind_is_a_user_error(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"not weights")
    with pytest.raises(UserError, match=rf"^backbone.weights: .*{name} cannot be read: .+$") as error:
        read_weights(tmp_path / name, ())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"hi\n", b"\x80\x02}q\x00X\x01\x00", bytes(range(256)) * 12, b""])
def test_a_damaged_file_is_a_user_error_with_advice(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(UserError) as error:
        read_weights(tmp_path / "w.pt", ())
    assert str(error.value) == (
        f"backbone.weights: {tmp_path}/w.pt cannot be read: "
        "it is damaged, or holds more than tensors; save it as safetensors"
    )


def test_loading_a_file_executes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": Evil()}, "w.pt")
    with pytest.raises(UserError, match="cannot be read"):
        read_weights(Path("w.pt"), ())
    assert not Path("executed").exists()


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, torch.zeros(2)])
def test_a_file_without_a_state_dict_is_a_user_error(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"is no state dict: save model\.state_dict"):
        read_weights(tmp_path / "w.pt", ())
