"""Make a thumbnail of an image: 256 pixels at the most, upright, in the same format."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from handlers.paths import inside

IMAGES = Path(os.environ.get("IMAGES", "images"))
THUMBNAILS = Path(os.environ.get("THUMBNAILS", "thumbnails"))

SIZE = (256, 256)
FORMATS = ("JPEG", "PNG", "WEBP")

MOST_PIXELS = 50_000_000
"""A file of a few kilobytes can claim to be an image of gigabytes; unpacked, this many take 200 MB."""


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Write the thumbnail of the image of a `file.created` or `file.modified` event.

    It has the image's name, in the same folder below `thumbnails/`. Returns `{"thumbnail", "width", "height",
    "bytes"}`. Raises ValueError for an image of too many pixels, PIL.UnidentifiedImageError for what is none.
    """
    path = inside(IMAGES, event["data"]["path"])
    target = THUMBNAILS / path.relative_to(IMAGES.resolve())
    target.parent.mkdir(parents=True, exist_ok=True)
    # Named by the invocation: a second attempt writes over what a first one left that was killed.
    unfinished = target.with_name(f".{context.aws_request_id}")
    try:
        with _opened(path) as image:
            small = _small(image)
            # What the camera wrote, such as the place, stays out; colours need their profile.
            small.save(unfinished, format=_format(image), icc_profile=image.info.get("icc_profile"))
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)
    print(f"{target}: {small.width} x {small.height}")
    return {
        "thumbnail": str(target),
        "width": small.width,
        "height": small.height,
        "bytes": target.stat().st_size,
    }


def _opened(path: Path) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit here is lower, and no mere warning
        image = Image.open(path, formats=FORMATS)
    if image.width * image.height > MOST_PIXELS:
        image.close()
        raise ValueError(f"{path.name}: {image.width} x {image.height} is more than {MOST_PIXELS} pixels")
    return image


def _format(image: Image.Image) -> str | None:
    # Some phones' JPEG files hold further pictures behind the first one.
    return "JPEG" if image.format == "MPO" else image.format


def _small(image: Image.Image) -> Image.Image:
    """Return the image made small, then turned upright: a small one is turned in less memory."""
    # Colours out of a palette cannot be mixed.
    palette = image.mode in {"1", "P"}
    small = image.convert("RGBA" if image.has_transparency_data else "RGB") if palette else image
    small.thumbnail(SIZE)
    return ImageOps.exif_transpose(small)
