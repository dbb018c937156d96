"""Two classes of drawn faces that differ in the bend of the mouth alone: upside down, one looks like the other."""

from __future__ import annotations

import random
from pathlib import Path

from PIL import Image, ImageDraw

CLASSES = ("cheerful", "gloomy")
SIDE = 64
INK = (120, 20, 20)


def draw_face(name: str, seed: int) -> Image.Image:
    """Colours, place and size of the face are drawn by `seed`."""
    rng = random.Random(f"{name} {seed}")
    image = Image.new("RGB", (SIDE, SIDE), (rng.randint(150, 255), rng.randint(150, 255), rng.randint(150, 255)))
    pen = ImageDraw.Draw(image)
    x, y, radius = 32 + rng.randint(-4, 4), 32 + rng.randint(-3, 3), rng.randint(20, 24)
    skin = (rng.randint(200, 255), rng.randint(160, 210), rng.randint(110, 160))
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=skin)
    for eye in (x - 8, x + 8):
        pen.ellipse((eye - 3, y - 8, eye + 3, y - 2), fill=(20, 20, 20))
    if name == "cheerful":
        pen.arc((x - 10, y + 2, x + 10, y + 16), 20, 160, fill=INK, width=3)
    else:
        pen.arc((x - 10, y + 8, x + 10, y + 22), 200, 340, fill=INK, width=3)
    return image


def draw_faces(folder: Path, num_each: int) -> None:
    """A folder of PNG files for each class, as `imagefolder:` takes them."""
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
        for i in range(num_each):
            draw_face(name, i).save(folder / name / f"{i:04}.png")
