"""The function thumbnail, on real images."""

from __future__ import annotations

import random
import struct
import zlib
from types import SimpleNamespace

import pytest
from PIL import Image, UnidentifiedImageError

from handlers import thumbnail

ORIENTATION = 0x0112


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """Functions run in the project's folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images/trip").mkdir(parents=True)
    return tmp_path


def run(path):
    event = {"type": "file.created", "data": {"path": str(path.absolute())}}
    return thumbnail.handler(event, SimpleNamespace(aws_request_id="7"))


def halves(width, height, mode="RGB"):
    """Return an image that is red on the left and blue on the right."""
    image = Image.new("RGB", (width, height), "blue")
    image.paste("red", (0, 0, width // 2, height))
    return image.convert(mode)


def png(width, height):
    """Return a PNG file that claims a size, in a few bytes."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("a.jpg", "RGB"),
        ("a.jpg", "L"),
        ("a.jpg", "CMYK"),
        ("a.png", "RGBA"),
        ("a.png", "P"),
        ("a.png", "1"),
        ("a.png", "I;16"),
        ("a.webp", "RGB"),
    ],
)
def test_a_thumbnail_has_the_format_and_proportions_of_its_image(project, name, mode):
    path = project / "images/trip" / name
    (halves(800, 400, "L").convert("I").convert(mode) if mode == "I;16" else halves(800, 400, mode)).save(path)
    result = run(path)
    assert result["thumbnail"] == f"thumbnails/trip/{name}"
    assert (result["width"], result["height"]) == (256, 128)
    with Image.open(path) as image, Image.open(result["thumbnail"]) as small:
        assert small.format == image.format
        assert small.size == (256, 128)
    assert result["bytes"] == (project / result["thumbnail"]).stat().st_size
    assert [file.name for file in (project / "thumbnails/trip").iterdir()] == [name], "nothing unfinished is left"


def test_a_photo_taken_sideways_is_turned_upright_and_tells_nothing_of_where(project):
    path = project / "images/a.jpg"
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # the camera was turned: to be shown, turn it right by 90 degrees
    exif[0x010E] = "at home"
    halves(800, 400).save(path, exif=exif)
    run(path)
    with Image.open("thumbnails/a.jpg") as small:
        assert small.size == (128, 256)
        red, blue = small.getpixel((64, 20)), small.getpixel((64, 236))
        assert red[0] - red[2] > 150 and blue[2] - blue[0] > 150
        assert not small.getexif()


def test_transparency_stays(project):
    path = project / "images/a.png"
    Image.new("RGBA", (600, 600), (0, 0, 0, 0)).quantize().save(path)
    run(path)
    with Image.open("thumbnails/a.png") as small:
        assert small.convert("RGBA").getpixel((10, 10))[3] == 0


def test_a_small_image_is_not_made_larger(project):
    path = project / "images/a.png"
    halves(10, 20).save(path)
    assert (run(path)["width"], run(path)["height"]) == (10, 20)


def test_an_image_with_further_pictures_in_it_is_a_jpeg(project):
    path = project / "images/a.jpg"
    halves(800, 400).save(path, format="MPO", save_all=True, append_images=[halves(800, 400)])
    run(path)
    with Image.open("thumbnails/a.jpg") as small:
        assert small.format == "JPEG"


@pytest.mark.parametrize("size", [(10_000, 6_000), (40_000, 40_000)])
def test_a_decompression_bomb_is_refused_before_it_is_unpacked(project, size):
    path = project / "images/a.png"
    path.write_bytes(png(*size))
    with pytest.raises((ValueError, Image.DecompressionBombError)):
        run(path)
    assert not list((project / "thumbnails").iterdir())


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"no image", b"%!PS-Adobe"])
def test_what_is_no_image_of_these_formats_fails(project, content):
    path = project / "images/a.jpg"
    path.write_bytes(content)
    with pytest.raises(UnidentifiedImageError):
        run(path)


def test_a_broken_image_fails_and_leaves_the_thumbnail_that_was_there(project):
    path = project / "images/a.png"
    halves(800, 400).save(path)
    run(path)
    before = (project / "thumbnails/a.png").read_bytes()
    noise = Image.frombytes("RGB", (300, 300), random.Random(1).randbytes(270_000))
    noise.save(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(OSError, match="truncated"):
        run(path)
    assert (project / "thumbnails/a.png").read_bytes() == before
    assert [file.name for file in (project / "thumbnails").iterdir()] == ["a.png"]


def test_a_path_outside_the_folder_is_refused(project):
    halves(10, 10).save(project / "secret.png")
    (project / "images/link.png").symlink_to(project / "secret.png")
    for path in (project / "secret.png", project / "images/link.png"):
        with pytest.raises(PermissionError):
            run(path)
