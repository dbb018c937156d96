"""Images mixed in pairs: torchvision's formulas and distributions, whatever batch a pair is in."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torchvision.transforms import v2

from launcher.augment.mix import Mix, boxes_of, build_mix
from launcher.recipe.augment import Augment
from tests.data.made import recipe_of

NUM, CLASSES, SIZE = 16, 5, (7, 9)
IDS = np.random.default_rng(0).permutation(1000)[:NUM]
IMAGES = torch.randn(NUM, 3, *SIZE, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(NUM) % CLASSES
METHODS: dict[str, dict[str, Any]] = {
    "mixup": {"mixup": {"alpha": 0.4}},
    "cutmix": {"cutmix": {"alpha": 1.0}},
    "both": {"mixup": {"alpha": 0.2}, "cutmix": {"alpha": 1.0}, "mix_p": 0.75},
}


def section(**keys: Any) -> Augment:
    crop = [{"op": "center_crop", "size": 32}]
    return recipe_of(augment={"train": crop, "eval": crop, **keys}).augment


def mix_of(**keys: Any) -> Mix:
    mix = build_mix(section(**keys), CLASSES)
    assert mix is not None
    return mix


def with_share(reference: Any, share: float) -> Any:
    """torchvision's transform, made to draw this."""
    reference._dist = SimpleNamespace(sample=lambda _: torch.tensor(share))
    return reference


def of_torchvision(reference: Any, parameters: dict[str, Any], first: int) -> tuple[Tensor, Tensor]:
    """Its result for the two images from `first` on: rolled by one, each is mixed with the other."""
    labels = LABELS[first : first + 2]
    parameters = {**parameters, "labels": labels, "batch_size": 2, "num_classes": CLASSES}
    return reference.transform(IMAGES[first : first + 2], parameters), reference.transform(labels, parameters)


def test_mixup_equals_torchvisions() -> None:
    mix = mix_of(**METHODS["mixup"])
    images_BCHW, targets_BK = mix(IMAGES, LABELS, IDS, 3, 1)
    for pair, share in enumerate(mix.draw(IDS, 3, 1, SIZE).shares_P):
        expected = of_torchvision(v2.MixUp(num_classes=CLASSES), {"lam": float(share)}, 2 * pair)
        torch.testing.assert_close(images_BCHW[2 * pair : 2 * pair + 2], expected[0])
        torch.testing.assert_close(targets_BK[2 * pair : 2 * pair + 2], expected[1])


def test_cutmix_equals_torchvisions() -> None:
    mix = mix_of(**METHODS["cutmix"])
    images_BCHW, targets_BK = mix(IMAGES, LABELS, IDS, 3, 1)
    drawn = mix.draw(IDS, 3, 1, SIZE)
    for pair, (box_4, share) in enumerate(zip(drawn.boxes_P4.tolist(), drawn.shares_P, strict=True)):
        parameters = {"box": (box_4[1], box_4[0], box_4[3], box_4[2]), "lam_adjusted": float(share)}
        expected = of_torchvision(v2.CutMix(num_classes=CLASSES), parameters, 2 * pair)
        assert torch.equal(images_BCHW[2 * pair : 2 * pair + 2], expected[0])
        torch.testing.assert_close(targets_BK[2 * pair : 2 * pair + 2], expected[1])
    assert (drawn.boxes_P4[:, 2:] > drawn.boxes_P4[:, :2]).all(axis=1).sum() > 4


def test_boxes_equal_torchvisions(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(1)
    shares_P, uniforms_P2 = random.random(200), random.random((200, 2))
    shares_P[:2] = 0.0, 1.0
    boxes_P4 = boxes_of(shares_P, uniforms_P2, SIZE)
    for share, uniforms, box_4 in zip(shares_P, uniforms_P2, boxes_P4.tolist(), strict=True):
        centers = iter([int(uniforms[1] * SIZE[1]), int(uniforms[0] * SIZE[0])])  # x is drawn first
        monkeypatch.setattr(torch, "randint", lambda *_, size, centers=centers: torch.tensor([next(centers)]))
        reference = with_share(v2.CutMix(num_classes=CLASSES), share)
        left, top, right, bottom = reference.make_params([IMAGES])["box"]
        assert box_4 == [top, left, bottom, right]
    assert (boxes_P4[0, 2:] > boxes_P4[0, :2]).all()
    assert (boxes_P4[1, 2:] == boxes_P4[1, :2]).all()


@pytest.mark.parametrize("alpha", [0.1, 0.2, 1.0, 8.0])
def test_shares_have_a_beta_distribution(alpha: float) -> None:
    shares_P = mix_of(mixup={"alpha": alpha}).draw(np.arange(8000), 5, 2, SIZE).shares_P
    assert stats.kstest(shares_P, stats.beta(alpha, alpha).cdf).pvalue > 0.01
    assert stats.kstest(shares_P, stats.beta(2 * alpha, alpha).cdf).pvalue < 0.001


def test_p_is_the_share_of_mixed_pairs_and_both_methods_are_equally_likely() -> None:
    mix = mix_of(mixup={"alpha": 1}, cutmix={"alpha": 1}, mix_p=0.6)
    drawn = mix.draw(np.arange(8000), 5, 2, (224, 224))
    is_box_P = (drawn.boxes_P4[:, 2:] > drawn.boxes_P4[:, :2]).all(axis=1)
    is_blend_P = (drawn.shares_P < 1) & ~is_box_P
    assert is_blend_P.mean() == pytest.approx(0.3, abs=0.02)
    assert is_box_P.mean() == pytest.approx(0.3, abs=0.02)  # on 224 pixels next to no box is empty


@pytest.mark.parametrize("keys", METHODS.values(), ids=METHODS.keys())
def test_a_pair_is_mixed_in_the_same_way_in_every_batch(keys: dict[str, Any]) -> None:
    """Global batch 16 as one micro batch, as two of 8 and four of 4: equal to the last bit."""
    mix = mix_of(**keys)
    whole = mix(IMAGES, LABELS, IDS, 3, 1)
    for size in (2, 4, 8):
        slices = [slice(start, start + size) for start in range(0, NUM, size)]
        parts = [mix(IMAGES[part], LABELS[part], IDS[part], 3, 1) for part in slices]
        for i in range(2):
            assert torch.equal(torch.cat([part[i] for part in parts]), whole[i])


@pytest.mark.parametrize("keys", METHODS.values(), ids=METHODS.keys())
def test_parameters_depend_on_seed_epoch_and_ids(keys: dict[str, Any]) -> None:
    mix = mix_of(**keys)
    first = mix.draw(IDS, 3, 1, SIZE).shares_P
    others = [mix.draw(ids, seed, epoch, SIZE).shares_P for ids, seed, epoch in
              [(IDS, 4, 1), (IDS, 3, 2), (IDS + 1, 3, 1), (IDS.reshape(-1, 2)[:, ::-1].reshape(-1), 3, 1)]]  # fmt: skip
    assert all((first != other).any() for other in others)


@pytest.mark.parametrize("change", [Tensor.contiguous, lambda x: x.contiguous(memory_format=torch.channels_last)])
def test_images_are_not_changed_in_place(change: Callable[[Tensor], Tensor]) -> None:
    images_BCHW = change(IMAGES.clone())
    mixed_BCHW, targets_BK = mix_of(**METHODS["both"])(images_BCHW, LABELS, IDS, 3, 1)
    assert torch.equal(images_BCHW, IMAGES)
    assert torch.equal(mixed_BCHW, mix_of(**METHODS["both"])(IMAGES, LABELS, IDS, 3, 1)[0])
    assert (mixed_BCHW.dtype, targets_BK.dtype) == (torch.float32, torch.float32)
    torch.testing.assert_close(targets_BK.sum(1), torch.ones(NUM))


def test_pairs_that_are_not_mixed_stay_as_they_are() -> None:
    mix = mix_of(**{**METHODS["both"], "mix_p": 0.5})
    images_BCHW, targets_BK = mix(IMAGES, LABELS, IDS, 3, 1)
    whole_B = torch.from_numpy(np.repeat(mix.draw(IDS, 3, 1, SIZE).shares_P == 1, 2))
    assert 0 < whole_B.sum() < NUM
    assert torch.equal(images_BCHW[whole_B], IMAGES[whole_B])
    assert torch.equal(targets_BK[whole_B].argmax(1), LABELS[whole_B])
    assert targets_BK[whole_B].amax(1).tolist() == [1.0] * int(whole_B.sum())


def test_a_recipe_without_mixing_has_no_mix() -> None:
    assert build_mix(section(), CLASSES) is None
