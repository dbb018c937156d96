"""Colors of whole batches, on whichever device the images are on: torchvision's numbers, one parameter per image.

Images are float32 on the scale [0, 255], all of one size, red, green and blue; results are new ones on the same scale.
`posterize` and `equalize` need whole levels: they round first and then give torchvision's uint8 numbers.

Shapes: B images, C = 3 channels, H x W pixels; n values of a batch in a row.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from launcher.augment.draw_color import WHITE


def adjust_brightness(images_BCHW: Tensor, factors_B: Tensor) -> Tensor:
    """Pixels multiplied by the factor: 0 is black."""
    return (images_BCHW * _over_pixels(factors_B)).clamp_(0, WHITE)


def adjust_contrast(images_BCHW: Tensor, factors_B: Tensor) -> Tensor:
    """Blended with the image's mean gray: 0 is that gray, above 1 moves away from it."""
    return _blend(images_BCHW, _gray(images_BCHW).mean(dim=(2, 3), keepdim=True), factors_B)


def adjust_saturation(images_BCHW: Tensor, factors_B: Tensor) -> Tensor:
    """Blended with each pixel's own gray: 0 is a gray image, above 1 moves away from it."""
    return _blend(images_BCHW, _gray(images_BCHW), factors_B)


def adjust_hue(images_BCHW: Tensor, shifts_B: Tensor) -> Tensor:
    """Hue shifted along the color circle, 1 is once around; brightest and darkest channel of a pixel keep their values.

    Each channel is a trapezoid over the hue, a third of the circle from the others, so one formula fits all hues.
    """
    low_BHW, high_BHW = images_BCHW.aminmax(dim=1)
    spread_BHW = high_BHW - low_BHW
    red_BHW, green_BHW, blue_BHW = images_BCHW.unbind(dim=1)
    # Six units around the circle. A gray pixel has no hue; any will do.
    divisor_BHW = torch.where(spread_BHW == 0, 1, spread_BHW)
    hue_BHW = torch.where(
        red_BHW == high_BHW,
        (green_BHW - blue_BHW) / divisor_BHW,
        torch.where(
            green_BHW == high_BHW, (blue_BHW - red_BHW) / divisor_BHW + 2, (red_BHW - green_BHW) / divisor_BHW + 4
        ),
    )
    hue_BHW += 6 * shifts_B[:, None, None]
    from_high_BCHW = torch.stack([(hue_BHW + shift).remainder_(6) for shift in (5, 3, 1)], dim=1)
    from_high_BCHW = torch.minimum(from_high_BCHW, 4 - from_high_BCHW).clamp_(0, 1)
    return high_BHW[:, None] - spread_BHW[:, None] * from_high_BCHW


def adjust_sharpness(images_BCHW: Tensor, factors_B: Tensor) -> Tensor:
    """Blended with the image blurred over 3 x 3 pixels: 0 is that, above 1 sharpens. Edge pixels stay as they are."""
    if min(images_BCHW.shape[2:]) <= 2:
        return images_BCHW.clone()
    inner_BCHW = images_BCHW[:, :, 1:-1, 1:-1]
    # The center weighs five times as much as its neighbors. No convolution, which a GPU may round to TF32.
    blurred_BCHW = avg_pool2d(images_BCHW, 3, stride=1).mul_(9 / 13).add_(inner_BCHW, alpha=4 / 13)
    sharpened_BCHW = images_BCHW.clone()
    sharpened_BCHW[:, :, 1:-1, 1:-1] = _blend(inner_BCHW, blurred_BCHW, factors_B)
    return sharpened_BCHW


def adjust_gamma(images_BCHW: Tensor, gammas_B: Tensor) -> Tensor:
    """To the power of gamma on the scale [0, 1]: above 1 darkens."""
    return (images_BCHW / WHITE).pow_(_over_pixels(gammas_B)).mul_(WHITE)


def grayscale(images_BCHW: Tensor) -> Tensor:
    """The pixel's gray in all three channels."""
    return _gray(images_BCHW).repeat(1, 3, 1, 1)


def solarize(images_BCHW: Tensor, thresholds_B: Tensor) -> Tensor:
    """Levels from the threshold on inverted; it is on the scale [0, 255]."""
    return torch.where(images_BCHW >= _over_pixels(thresholds_B), WHITE - images_BCHW, images_BCHW)


def posterize(images_BCHW: Tensor, bits_B: Tensor) -> Tensor:
    """Levels rounded down to their highest `bits` of 8 bits."""
    steps_B111 = torch.exp2(8 - _over_pixels(bits_B)).round_()  # a device's exp2 may be a little off
    return images_BCHW.round().div_(steps_B111).floor_().mul_(steps_B111)


def autocontrast(images_BCHW: Tensor) -> Tensor:
    """Each channel stretched to [0, 255]; one of a single level stays as it is."""
    low_BC11, high_BC11 = (limit(images_BCHW, dim=(2, 3), keepdim=True) for limit in (torch.amin, torch.amax))
    is_flat_BC11 = low_BC11 == high_BC11
    low_BC11 = torch.where(is_flat_BC11, 0, low_BC11)
    scale_BC11 = torch.where(is_flat_BC11, 1, (high_BC11 - low_BC11) / WHITE)
    return ((images_BCHW - low_BC11) / scale_BC11).clamp_(0, WHITE)


def equalize(images_BCHW: Tensor) -> Tensor:
    """Each channel mapped so that its levels are about equally frequent: Pillow's and torchvision's integer recipe.

    The histograms lie in one row, 256 numbers for each channel of each image: a scatter along one axis is
    deterministic on a GPU too.
    """
    levels_BCn = images_BCHW.round().long().flatten(2)
    batch, channels, num_pixels = levels_BCn.shape
    starts_BC1 = torch.arange(0, batch * channels * 256, 256, device=images_BCHW.device).view(batch, channels, 1)
    flat_n = (levels_BCn + starts_BC1).flatten()
    counts_n = torch.zeros(batch * channels * 256, dtype=torch.int64, device=images_BCHW.device)
    counts_BC256 = counts_n.scatter_add_(0, flat_n, torch.ones_like(flat_n)).view(batch, channels, 256)
    up_to_BC256 = counts_BC256.cumsum(dim=2)
    # The brightest level that occurs does not count.
    brightest_BC1 = levels_BCn.amax(dim=2, keepdim=True)
    step_BC1 = (num_pixels - counts_BC256.gather(2, brightest_BC1)) // 255
    below_BC256 = up_to_BC256 - counts_BC256
    mapped_BC256 = ((below_BC256 + step_BC1 // 2) // step_BC1.clamp(min=1)).clamp_(0, 255)
    every_256 = torch.arange(256, device=images_BCHW.device)
    mapped_BC256 = torch.where(step_BC1 == 0, every_256, mapped_BC256)
    return mapped_BC256.flatten().gather(0, flat_n).view_as(images_BCHW).to(images_BCHW.dtype)


def _gray(images_BCHW: Tensor) -> Tensor:
    """gray_B1HW, by the weights of ITU-R BT.601 as torchvision rounds them."""
    red_BHW, green_BHW, blue_BHW = images_BCHW.unbind(dim=1)
    return red_BHW.mul(0.2989).add_(green_BHW, alpha=0.587).add_(blue_BHW, alpha=0.114)[:, None]


def _blend(images_BCHW: Tensor, towards: Tensor, factors_B: Tensor) -> Tensor:
    factors_B111 = _over_pixels(factors_B)
    return (images_BCHW * factors_B111 + towards * (1 - factors_B111)).clamp_(0, WHITE)


def _over_pixels(values_B: Tensor) -> Tensor:
    return values_B[:, None, None, None]
