from __future__ import annotations

import math
import os
import struct
import subprocess
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile
from timm.data.transforms_factory import create_transform
from torchvision.datasets.folder import pil_loader

from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.types import Preprocessing
from hvt_deploy.data import images as images_module
from hvt_deploy.data.decoding import PixelsInFlight, UnreadableImage, decode, to_rgb
from hvt_deploy.data.folders import Sample
from hvt_deploy.data.images import load_batches, load_pixels, preprocess


def timm_pixels(path: Path, preprocessing: Preprocessing) -> np.ndarray:
    """A file as timm loads it: its dataset's loader, then its own evaluation transform."""
    transform = create_transform(
        (3, *preprocessing.image_size),
        is_training=False,
        crop_pct=preprocessing.crop_pct,
        crop_mode=preprocessing.crop_mode,
        interpolation=preprocessing.interpolation,
        mean=preprocessing.mean,
        std=preprocessing.std,
    )
    return transform(Image.open(path).convert("RGB")).numpy()


def write_photo(path: Path, width: int, height: int, seed: int = 0, **save: object) -> Path:
    """A picture with edges and gradients, so that a shift by one pixel or another filter shows."""
    noise = np.random.default_rng(seed).integers(
        0, 256, (max(1, height // 8), max(1, width // 8), 3), dtype=np.uint8
    )
    Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC).save(path, **save)
    return path


SHAPES = [
    (500, 375),
    (375, 500),
    (224, 224),
    (256, 256),
    (257, 256),
    (1024, 640),
    (333, 1000),
    (1000, 333),
    (100, 100),
    (33, 47),
    (7, 5),
    (1, 1),
    (1, 12),
    (13, 1),
    (2, 60),
    (61, 3),
    (255, 256),
    (223, 225),
    (639, 641),
    (90, 4000),
    (719, 1279),
    (248, 248),
    (64, 48),
    (481, 321),
]

PREPROCESSINGS = {
    "center": Preprocessing((224, 224)),
    "center-0.9-bilinear": Preprocessing((224, 224), 0.9, interpolation="bilinear"),
    "center-nearest": Preprocessing((65, 65), 0.95, interpolation="nearest"),
    "full": Preprocessing((224, 224), 1.0, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    "padded": Preprocessing((97, 97), 1.13, mean=(0.48145466, 0.4578275, 0.40821073)),
    "squash": Preprocessing((112, 112), 0.96, crop_mode="squash"),
    "squash-wide": Preprocessing((96, 160), 0.9, crop_mode="squash", interpolation="bilinear"),
    "wide": Preprocessing((144, 240), 0.93),
    "tall": Preprocessing((160, 96), 1.0, interpolation="bilinear"),
    "wide-padded": Preprocessing((75, 110), 1.2),
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photos")
    return [write_photo(folder / f"{w}x{h}.bmp", w, h, seed) for seed, (w, h) in enumerate(SHAPES)]


@pytest.mark.parametrize("preprocessing", PREPROCESSINGS.values(), ids=PREPROCESSINGS)
def test_pixels_equal_timms_bit_for_bit_for_every_shape(
    photos: list[Path], preprocessing: Preprocessing
) -> None:
    for path in photos:
        ours = preprocess(decode(path), preprocessing)
        assert ours.dtype == np.float32
        assert ours.shape == (3, *preprocessing.image_size)
        assert np.array_equal(ours, timm_pixels(path, preprocessing)), path.stem


def write_odd_images(folder: Path) -> dict[str, Path]:
    """One file of every kind that evaluation sets are known to hold."""
    rng = np.random.default_rng(1)
    rgb = Image.open(write_photo(folder / "rgb.png", 310, 270))
    deep = rng.integers(0, 65536, (60, 90), dtype=np.uint16)
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    palette = rgb.quantize(32)
    made = {
        "jpeg.JPEG": (rgb, {"quality": 85}),
        "progressive.jpg": (rgb, {"progressive": True}),
        "grey.jpg": (rgb.convert("L"), {}),
        "cmyk.jpg": (rgb.convert("CMYK"), {}),
        "exif.jpg": (rgb, {"exif": exif}),
        "icc.jpg": (rgb, {"icc_profile": b"not really a profile"}),
        "palette.png": (palette, {}),
        "palette-transparent.png": (palette, {"transparency": 3}),
        "palette-alpha.png": (palette, {"transparency": bytes(range(0, 256, 8))}),
        "rgba.png": (Image.merge("RGBA", (*rgb.split(), rgb.getchannel("R"))), {}),
        "grey-alpha.png": (Image.merge("LA", (rgb.convert("L"), rgb.getchannel("G"))), {}),
        "one-bit.png": (rgb.convert("1"), {}),
        "sixteen-bit.png": (Image.fromarray(deep), {}),
        "sixteen-bit.tif": (Image.fromarray(deep), {}),
        "colour-key.png": (rgb, {"transparency": (0, 0, 0)}),
        "image.bmp": (rgb, {}),
        "lossy.webp": (rgb, {}),
        "jpeg-named.png": (rgb, {"format": "JPEG"}),
    }
    for name, (image, save) in made.items():
        image.save(folder / name, **save)
    return {name: folder / name for name in made}


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
def test_every_kind_of_file_is_decoded_as_timm_and_torchvision_do(tmp_path: Path) -> None:
    for name, path in write_odd_images(tmp_path).items():
        image = decode(path)
        assert image.mode == "RGB", name
        assert image.tobytes() == pil_loader(str(path)).tobytes(), name
        for key in ("center", "squash"):
            preprocessing = PREPROCESSINGS[key]
            assert np.array_equal(
                preprocess(image, preprocessing), timm_pixels(path, preprocessing)
            ), name


def test_exif_orientation_is_not_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = write_photo(tmp_path / "turned.jpg", 80, 40, exif=exif)
    assert Image.open(path).getexif()[0x0112] == 6
    assert decode(path).size == (80, 40)


def test_every_grey_level_is_normalised_exactly_as_torch_does() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = Image.fromarray(np.stack([levels] * 3, axis=-1))
    preprocessing = Preprocessing((16, 16), 1.0)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (preprocessing.mean, preprocessing.std))
    expected = (torch.from_numpy(np.stack([levels] * 3)).float().div(255) - mean) / std
    assert np.array_equal(preprocess(image, preprocessing), expected.numpy())


def huge_png(width: int, height: int) -> bytes:
    """A PNG that claims to be this large and holds ten bytes of pixels."""
    chunks = (
        b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0),
        b"IDAT" + zlib.compress(bytes(10)),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks
    )


def write_broken_images(folder: Path) -> dict[str, Path]:
    whole_jpeg = write_photo(folder / "whole.jpg", 320, 200).read_bytes()
    whole_png = write_photo(folder / "whole.png", 320, 200).read_bytes()
    contents = {
        "empty.jpg": b"",
        "text.jpg": b"<html>404 not found</html>",
        "half.jpg": whole_jpeg[: len(whole_jpeg) // 2],
        "cut-tail.jpg": whole_jpeg[:-200],
        "header-only.jpg": whole_jpeg[:30],
        "half.png": whole_png[: len(whole_png) // 2],
        "flipped.png": whole_png[:200]
        + bytes(b ^ 0xFF for b in whole_png[200:260])
        + whole_png[260:],
        "bomb.png": huge_png(60_000, 60_000),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    (folder / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    return {name: folder / name for name in (*contents, "gone.jpg")}


def test_damaged_files_are_unreadable_with_a_reason(tmp_path: Path) -> None:
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False
    reasons: dict[str, str] = {}
    for name, path in write_broken_images(tmp_path).items():
        with pytest.raises(UnreadableImage) as caught:
            decode(path)
        reasons[name] = caught.value.message
    assert "truncated" in reasons["half.jpg"]
    assert "decompression bomb" in reasons["bomb.png"]
    assert "No such file" in reasons["gone.jpg"]
    assert all(reasons.values())


def test_an_image_that_cannot_be_resized_in_memory_is_unreadable() -> None:
    with pytest.raises(UnreadableImage, match="1 x 20000 pixels would be resized to 256 x 5120000"):
        preprocess(Image.new("RGB", (1, 20_000)), PREPROCESSINGS["center"])


@pytest.mark.parametrize("kind", ["EPS", "GIF", "ICO", "PDF", "PCX", "JPEG2000"])
def test_other_formats_are_refused_whatever_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    started: list[object] = []
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: started.append(a))  # Ghostscript
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png", kind)
    with pytest.raises(UnreadableImage, match="not an image in one of JPEG, PNG, BMP"):
        decode(tmp_path / "a.png")
    assert not started


def test_a_pipe_and_a_link_to_itself_are_unreadable_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    for name, reason in (("pipe.png", "not a file"), ("loop.png", "Too many levels")):
        with pytest.raises(UnreadableImage, match=reason):
            decode(tmp_path / name)


def test_large_images_are_decoded_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Limit for two of these images: of six threads two are at work, and none waits for ever."""
    samples = write_samples(tmp_path, 12)
    monkeypatch.setattr(images_module, "_IN_FLIGHT", PixelsInFlight(800))
    whole, lock = images_module.to_rgb, threading.Lock()
    working: list[int] = []
    most: list[int] = []

    def watched(image: Image.Image) -> Image.Image:
        with lock:
            working.append(1)
            most.append(len(working))
        time.sleep(0.005)
        with lock:
            working.pop()
        return whole(image)

    monkeypatch.setattr(images_module, "to_rgb", watched)
    samples[3].path.write_bytes(samples[3].path.read_bytes()[:-30])  # gives its pixels back too
    batches = list(load_batches(samples, SMALL, batch_size=6, threads=6))
    assert sum(len(batch.labels_N) for batch in batches) == 11
    assert max(most) == 2


def test_an_image_with_the_most_pixels_is_decoded_without_a_second_copy(tmp_path: Path) -> None:
    image = Image.new("RGB", (40, 30))
    image.save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as opened:
        assert to_rgb(opened) is opened


SMALL = Preprocessing((16, 16), 1.0)


def write_samples(folder: Path, number: int) -> list[Sample]:
    """Images that differ in their grey level; label = level modulo 7."""
    samples: list[Sample] = []
    for i in range(number):
        path = folder / f"{i:03d}.png"
        Image.new("RGB", (20, 20), (i, i, i)).save(path)
        samples.append(Sample(path, i % 7))
    return samples


def levels(images_NCHW: np.ndarray) -> list[int]:
    grey = images_NCHW[:, 0, 0, 0] * SMALL.std[0] + SMALL.mean[0]
    return [round(float(g) * 255) for g in grey]


@pytest.mark.parametrize("threads", [1, 3, 8])
def test_batches_come_in_order_whatever_the_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    samples = write_samples(tmp_path, 23)

    def slow_load(path: Path, preprocessing: Preprocessing) -> np.ndarray:
        time.sleep(0.01 if int(path.stem) % 3 == 0 else 0)
        return load_pixels(path, preprocessing)

    monkeypatch.setattr(images_module, "load_pixels", slow_load)
    batches = list(load_batches(samples, SMALL, batch_size=5, threads=threads))
    assert [len(b.images_NCHW) for b in batches] == [5, 5, 5, 5, 3]
    assert [s for b in batches for s in b.samples] == samples
    assert [i for b in batches for i in b.labels_N] == [i % 7 for i in range(23)]
    assert [g for b in batches for g in levels(b.images_NCHW)] == list(range(23))
    assert all(
        b.images_NCHW.dtype == np.float32 and b.images_NCHW.flags.c_contiguous for b in batches
    )


def test_a_corrupt_file_is_left_out_and_named_and_batches_stay_full(tmp_path: Path) -> None:
    samples = write_samples(tmp_path, 120)
    samples[3].path.write_bytes(samples[3].path.read_bytes()[:40])
    loader = load_batches(samples, SMALL, batch_size=4, threads=2)
    for _ in range(2):  # every iteration starts anew
        batches = list(loader)
        indices = [samples.index(s) for b in batches for s in b.samples]
        assert indices == [i for i in range(120) if i != 3]
        assert [int(i) for b in batches for i in b.labels_N] == [i % 7 for i in indices]
        assert [g for b in batches for g in levels(b.images_NCHW)] == indices
        assert [len(b.images_NCHW) for b in batches] == [4] * 29 + [3]
        assert [u.path for u in loader.unreadable] == [samples[3].path]
        assert loader.unreadable[0].reason


@pytest.mark.parametrize(("broken", "accepted"), [(1, True), (2, True), (3, False)])
def test_more_than_one_percent_unreadable_is_an_error_that_names_files(
    tmp_path: Path, broken: int, accepted: bool
) -> None:
    samples = write_samples(tmp_path, 200)
    for sample in samples[50 : 50 + broken]:
        sample.path.write_bytes(b"not an image")
    loader = load_batches(samples, SMALL, batch_size=8, threads=2)
    if accepted:
        assert sum(len(b.labels_N) for b in loader) == 200 - broken
        assert len(loader.unreadable) == broken
        return
    with pytest.raises(BadInput) as caught:
        list(loader)
    assert caught.value.exit_code == 2
    assert "3 of 200" in caught.value.message
    assert all(sample.path.name in caught.value.message for sample in samples[50:53])
    assert caught.value.hint


def test_a_set_without_a_readable_image_is_an_error_and_gives_no_batch(tmp_path: Path) -> None:
    samples = write_samples(tmp_path, 3)
    for sample in samples:
        sample.path.write_bytes(b"")
    with pytest.raises(BadInput):
        next(iter(load_batches(samples, SMALL, batch_size=2, threads=2)))


def test_an_unreadable_last_file_gives_no_empty_batch(tmp_path: Path) -> None:
    samples = write_samples(tmp_path, 101)
    samples[100].path.write_bytes(b"")
    assert [len(b.labels_N) for b in load_batches(samples, SMALL, batch_size=50, threads=2)] == [
        50,
        50,
    ]


def test_decoding_runs_ahead_by_a_bounded_window_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = write_samples(tmp_path, 100)
    started: list[Path] = []

    def counted_load(path: Path, preprocessing: Preprocessing) -> np.ndarray:
        started.append(path)
        return load_pixels(path, preprocessing)

    monkeypatch.setattr(images_module, "load_pixels", counted_load)
    iterator = iter(load_batches(samples, SMALL, batch_size=6, threads=3))
    for batch in range(1, 5):
        next(iterator)
        time.sleep(0.05)  # a slow consumer: threads would run away here
        assert batch * 6 <= len(started) <= batch * 6 + 6 + 3
    before = threading.active_count()
    del iterator  # a consumer that stops early leaves no thread and decodes no more
    assert threading.active_count() < before
    assert len(started) < 50


def test_a_fault_of_the_program_is_not_mistaken_for_a_corrupt_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = write_samples(tmp_path, 4)

    def wrong(image: Image.Image, size: tuple[int, int], resample: int) -> Image.Image:
        raise ZeroDivisionError

    monkeypatch.setattr(Image.Image, "resize", wrong)
    with pytest.raises(ZeroDivisionError):
        list(load_batches(samples, SMALL, batch_size=2, threads=2))


def test_crop_and_resize_sizes_follow_the_published_rule() -> None:
    """floor(224 / 0.9) = 248, not 249: a rounded size would shift every pixel."""
    image = Image.new("RGB", (248, 248))
    image.putpixel((12, 12), (255, 255, 255))
    pixels = preprocess(image, Preprocessing((224, 224), 0.9))
    assert math.floor(224 / 0.9) == 248
    assert pixels[0].argmax() == 0  # not resized, cropped by (248 - 224) / 2 = 12
