"""Preprocess against Caffe's DataTransformer written out in numpy, and against Pillow's reading of pictures."""

from __future__ import annotations

import dataclasses
import io
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

import converter
from converter import Preprocess, convert

RAW = Preprocess(None, "RGB", (0.0, 0.0, 0.0), "this test")
GREY = Preprocess(None, "GRAY", (0.0,), "this test")


def rgb(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)


def test_a_mean_image_is_subtracted_before_the_crop(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """DataTransformer::Transform reads the mean at the cropped pixel's place in the whole image: (h_off + h, w_off + w)."""
    path = tmp_path / "net.prototxt"
    path.write_text(
        'layer { name: "data" type: "Data" top: "data" data_param { batch_size: 2 }'
        ' transform_param { scale: 0.5 mean_file: "some/mean.binaryproto" crop_size: 4 } }\n'
        'layer { name: "y" type: "Power" bottom: "data" top: "y" }'
    )
    preprocess, image = convert(path).preprocess, rgb(7, 9)
    assert preprocess is not None
    mean = np.random.default_rng(0).random((3, 7, 9), np.float32) * 255
    expected = (image[:, :, ::-1].transpose(2, 0, 1) - mean)[:, 1:5, 2:6] * np.float32(0.5)
    np.testing.assert_array_equal(preprocess(image, mean).numpy(), expected)
    bound = preprocess.with_mean_image(mean)
    for found in (bound, pickle.loads(pickle.dumps(bound))):
        assert isinstance(found, Preprocess)
        np.testing.assert_array_equal(found(image).numpy(), expected)
    with pytest.raises(ValueError, match=r"some/mean\.binaryproto.*read_mean"):
        preprocess(image)
    with pytest.raises(ValueError, match=r"mean image is \(3, 7, 9\), the image \(3, 8, 9\)"):
        bound(rgb(8, 9))
    with pytest.raises(ValueError, match="3×9, smaller than the 4×4"):
        preprocess(rgb(3, 9), mean[:, :3])


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        ('type: "Data" transform_param { force_gray: true crop_size: 4 }', (1, 1, 4, 4), ((4, 4), "GRAY", (0.0,), "keep")),
        ('type: "Data" transform_param { mean_value: 7 }', (1, 3, 5, 6), ((5, 6), "BGR", (7.0,) * 3, None)),
        (
            'type: "ImageData" image_data_param { new_height: 8 new_width: 9 } transform_param { crop_size: 4 }',
            (1, 3, 4, 4),
            ((4, 4), "BGR", (0.0,) * 3, (8, 9)),
        ),
        ('type: "WindowData" transform_param { crop_size: 4 }', (1, 3, 4, 4), ((4, 4), "BGR", (0.0,) * 3, None)),
        ('type: "Data" transform_param { scale: 2 }', (1, 5, 4, 4), None),
        ('type: "Data" transform_param { mean_value: 7 mean_value: 8 }', (1, 3, 5, 6), None),
    ],
)
@pytest.mark.filterwarnings("ignore:.*which Caffe refuses")
def test_what_a_data_layer_says_is_a_record(layer: str, shape, expected, tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "net.prototxt"
    path.write_text(f'layer {{ name: "data" top: "data" {layer} }}\nlayer {{ name: "y" type: "Power" bottom: "data" top: "y" }}')
    preprocess = convert(path, input_shapes={"data": shape}).preprocess
    found = preprocess and (preprocess.size, preprocess.channels, preprocess.mean, preprocess.resize)
    assert found == expected


@pytest.mark.parametrize("spec", [RAW, GREY], ids=["RGB", "GRAY"])
def test_grey_images_of_every_kind_are_the_same(spec: Preprocess) -> None:
    grey = rgb(5, 6)[:, :, 0]
    expected = np.broadcast_to(grey, (len(spec.mean), 5, 6)).astype(np.float32)
    pictures = [Image.fromarray(grey), Image.fromarray(grey.astype(np.uint16) * 257)]
    assert [picture.mode for picture in pictures] == ["L", "I;16"]
    png = io.BytesIO()
    pictures[1].save(png, "PNG")
    for image in (grey, torch.from_numpy(grey)[None], *pictures, Image.open(png)):
        np.testing.assert_array_equal(spec(image).numpy(), expected)


def test_grey_of_a_colour_image_is_what_pillow_makes() -> None:
    found = GREY(rgb(5, 6))[0].numpy()
    np.testing.assert_allclose(found, np.asarray(Image.fromarray(rgb(5, 6)).convert("L"), np.float32), atol=1)


@pytest.mark.parametrize("mode", ["RGBA", "CMYK", "P", "1", "LA", "YCbCr", "HSV"])
def test_other_modes_are_what_pillow_converts_them_to(mode: str) -> None:
    picture = Image.fromarray(rgb(5, 6)).convert(mode)
    np.testing.assert_array_equal(RAW(picture).numpy(), np.asarray(picture.convert("RGB"), np.float32).transpose(2, 0, 1))


def test_transparent_parts_show_white() -> None:
    pixels = np.zeros((1, 2, 4), np.uint8)
    pixels[0, 0] = 200, 100, 0, 255
    assert RAW(Image.fromarray(pixels)).permute(1, 2, 0).tolist() == [[[200, 100, 0], [255, 255, 255]]]


@pytest.mark.parametrize("mode", ["I", "F"])
def test_a_picture_without_a_range_is_refused(mode: str) -> None:
    with pytest.raises(ValueError, match=f"mode '{mode}' has no fixed range"):
        RAW(Image.new(mode, (4, 4)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_seen_upright(orientation: int) -> None:
    """The corners of a JPEG with each EXIF orientation, where the standard says that viewers show them."""
    corners = {1: "abcd", 2: "badc", 3: "dcba", 4: "cdab", 5: "acbd", 6: "cadb", 7: "dbca", 8: "bdac"}[orientation]
    shades = {"a": 0, "b": 80, "c": 160, "d": 240}
    picture = Image.fromarray(np.kron([[0, 80], [160, 240]], np.ones((16, 8))).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    jpeg = io.BytesIO()
    picture.save(jpeg, "JPEG", exif=exif, quality=100)
    found = GREY(Image.open(jpeg))[0]
    assert tuple(found.shape) == ((32, 16) if orientation < 5 else (16, 32))
    four = [found[0, 0], found[0, -1], found[-1, 0], found[-1, -1]]
    assert [round(float(value)) for value in four] == pytest.approx([shades[corner] for corner in corners], abs=3)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow's own
def test_exif_data_that_cannot_be_read_turn_nothing() -> None:
    jpeg = io.BytesIO()
    Image.fromarray(rgb(8, 8)).save(jpeg, "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert RAW(Image.open(jpeg)).shape == (3, 8, 8)


def test_a_batch_on_its_device_is_normalised_as_one_image_is() -> None:
    images = torch.from_numpy(np.stack([rgb(5, 6), rgb(5, 6)[::-1]])).permute(0, 3, 1, 2)
    for channels, mean, scale in (("BGR", (1.0, 2.0, 3.0), (0.5, 0.25, 0.125)), ("GRAY", (9.0,), 2.0)):
        spec = Preprocess((5, 6), channels, mean, "this test", scale)  # type: ignore[arg-type]
        assert torch.equal(spec.normalised(images.float()), torch.stack([spec(image) for image in images]))


def test_the_record_is_frozen_and_one_for_the_zoo() -> None:
    import zoo

    assert zoo.Preprocess is converter.Preprocess is type(zoo.info("vgg_face").preprocess)
    with pytest.raises(dataclasses.FrozenInstanceError):
        RAW.scale = 2.0  # type: ignore[misc]
    assert RAW.with_mean_image(np.zeros((3, 5, 6), np.float32)).mean == RAW.mean and dataclasses.replace(RAW) == RAW
