"""What the cards of ImageNet models share: who publishes checksums, where mirrors lie, how an input is written."""

from __future__ import annotations

from converter.preprocess import Preprocess

OMZ = "https://storage.openvinotoolkit.org/repositories/open_model_zoo/public"
MODEL_YML = "openvinotoolkit/open_model_zoo 2021.4.2, models/public/{}/model.yml"
MODEL_YML_2022 = "openvinotoolkit/open_model_zoo 2022.1.0, models/public/{}/model.yml"
MEXOPENCV = "kyamagu/mexopencv d29007b2, samples/dnn_image_classification_demo.m"
OPENCV_EXTRA = "opencv/opencv_extra 00a935f9, testdata/dnn/download_models.py"
PROBABILITIES = "probabilities of 1000 ImageNet classes"


def imagenet_input(size: int, mean: tuple[float, float, float], source: str, resize: tuple[int, int] | int) -> Preprocess:
    """BGR in 0..255 minus the channels' means, the centre `size`×`size` of the resized image."""
    return Preprocess(size=(size, size), resize=resize, channels="BGR", mean=mean, source=source)
