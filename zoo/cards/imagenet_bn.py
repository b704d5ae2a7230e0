"""ImageNet nets with batch normalization: ResNets, MobileNets, and open_nsfw. Facts only, each with its source."""

from __future__ import annotations

from converter.preprocess import Preprocess
from zoo.cards.one_net import one_net
from zoo.cards.record import Card, Checksum, File, Mirror, Terms
from zoo.cards.sources import MEXOPENCV, MODEL_YML, OMZ, OPENCV_EXTRA, PROBABILITIES, imagenet_input


def _resnet(depth: int, parameters: int, file: File) -> Card:
    return one_net(
        f"resnet{depth}",
        f"ResNet-{depth} (Kaiming He)",
        file,
        task="ImageNet classification",
        terms=Terms("MIT (the repository)", "KaimingHe/deep-residual-networks LICENSE", identifier="mit"),
        citation="He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, CVPR 2016",
        input="(N, 3, 224, 224)",
        outputs=PROBABILITIES,
        preprocess=imagenet_input(
            224,
            (104.0, 117.0, 123.0),
            "open_model_zoo resnet-50.md for the means (the authors subtract a mean image, ResNet_mean.binaryproto); "
            "shorter side 256: KaimingHe/deep-residual-networks README",
            256,
        ),
        classifier="fc1000",
        parameters=parameters,
    )


_OMZ_2019 = "openvinotoolkit/open_model_zoo 2019_R1, model_downloader/list_topologies.yml"
RESNET50 = _resnet(
    50,
    25_557_096,
    File(
        "ResNet-50-model.caffemodel",
        (Mirror("https://dl.opencv.org/models/ResNet-50-model.caffemodel"),),
        102_462_397,
        (
            Checksum("sha1", "b7c79ccc21ad0479cddc0dd78b1d20c4d722908d", f"{OPENCV_EXTRA}; {MEXOPENCV}"),
            Checksum("sha256", "44ee2b08816cede2b7aaa047888df07dcab52f73399aa1c8bef05a17bfdd4888", _OMZ_2019),
        ),
    ),
)
RESNET101 = _resnet(
    101,
    44_549_160,
    File(
        "ResNet-101-model.caffemodel",
        (),
        178_662_602,
        (Checksum("sha256", "2847d93346d7928ec1f257f49f60ea53e9075c15265c494469610e67ffb7f2e2", _OMZ_2019),),
    ),
)
RESNET152 = _resnet(
    152,
    60_192_808,
    File(
        "ResNet-152-model.caffemodel",
        (Mirror("http://data.mxnet.io/models/imagenet/test/caffe/ResNet-152-model.caffemodel"),),
        241_444_171,
        (Checksum("sha256", "6253c4c4132c0b25c112b166629aa57dcaeec044a4c68ac9f003b6c801329d55", _OMZ_2019),),
    ),
)

_SHICAI = "https://github.com/shicai/MobileNet-Caffe/raw/26a8b8c0afb6114a07c1c9e4f550e4e0dd8cced1"
_SHICAI_TERMS = Terms("3-clause BSD", "shicai/MobileNet-Caffe LICENSE", identifier="bsd-3-clause")
_SHICAI_PREPROCESS = Preprocess(
    size=(224, 224),
    resize=256,
    channels="BGR",
    mean=(103.94, 116.78, 123.68),
    scale=0.017,
    source="shicai/MobileNet-Caffe README: BGR means, scale 0.017, crop 224 of 256×N",
)

MOBILENET_V1 = one_net(
    "mobilenet_v1",
    "MobileNet 1.0 (shicai)",
    File(
        "mobilenet.caffemodel",
        (Mirror(f"{_SHICAI}/mobilenet.caffemodel"),),
        17_027_058,
        (
            Checksum(
                "sha256",
                "8d6edcd3dbd1356f2f19dd220c362c2ba8f44233a9b6c12ca6d0351cb0c446b6",
                MODEL_YML.format("mobilenet-v1-1.0-224"),
            ),
            Checksum(
                "git-blob-sha1",
                "132e56b5f14874090622a8287f208e5eac3d8440",
                "the git tree of shicai/MobileNet-Caffe",
            ),
        ),
    ),
    task="ImageNet classification",
    terms=_SHICAI_TERMS,
    citation="Howard et al.: MobileNets, arXiv 1704.04861",
    input="(N, 3, 224, 224)",
    outputs="logits (N, 1000, 1, 1) of ImageNet classes",
    preprocess=_SHICAI_PREPROCESS,
    classifier="fc7",
    parameters=4_231_976,
)

MOBILENET_V2 = one_net(
    "mobilenet_v2",
    "MobileNet v2 (shicai)",
    File(
        "mobilenet_v2.caffemodel",
        (
            Mirror(f"{_SHICAI}/mobilenet_v2.caffemodel"),
            Mirror(f"{OMZ}/2022.1/mobilenet-v2/mobilenet_v2.caffemodel"),
        ),
        14_186_496,
        (
            Checksum(
                "sha256",
                "a3124ce7abd258c7f35a2c586576bee8116934fa2a8556e4e528041859dd753f",
                MODEL_YML.format("mobilenet-v2"),
            ),
            Checksum(
                "git-blob-sha1",
                "901c2b5515da944d152e1aa0c3e71108eb227576",
                "the git tree of shicai/MobileNet-Caffe",
            ),
        ),
    ),
    task="ImageNet classification",
    terms=_SHICAI_TERMS,
    citation="Sandler, Howard, Zhu, Zhmoginov, Chen: MobileNetV2, CVPR 2018",
    input="(N, 3, 224, 224)",
    outputs="probabilities (N, 1000, 1, 1) of ImageNet classes",
    preprocess=_SHICAI_PREPROCESS,
    classifier="fc7",
    parameters=3_505_960,
)

SE_RESNET50 = one_net(
    "se_resnet50",
    "SE-ResNet-50 (hujie-frank/SENet)",
    File(
        "SE-ResNet-50.caffemodel",
        (Mirror(f"{OMZ}/2021.4/se-resnet-50/SE-ResNet-50.caffemodel"),),
        112_602_669,
        (
            Checksum(
                "sha256",
                "72880fde3bd29b324bb302c80f49a098b8970597494c56525fd410a8d2ed5993",
                MODEL_YML.format("se-resnet-50"),
            ),
        ),
    ),
    task="ImageNet classification",
    terms=Terms("Apache 2.0", "hujie-frank/SENet LICENSE; open_model_zoo's page of se-resnet-50", identifier="apache-2.0"),
    citation="Hu, Shen, Sun: Squeeze-and-Excitation Networks, CVPR 2018",
    input="(N, 3, 224, 224)",
    outputs=PROBABILITIES,
    preprocess=imagenet_input(
        224,
        (104.0, 117.0, 123.0),
        "open_model_zoo's page of se-resnet-50 (BGR, these means); hujie-frank/SENet README (shorter side 256)",
        256,
    ),
    classifier="classifier",
    parameters=28_088_024,
)

OPEN_NSFW = one_net(
    "open_nsfw",
    "Yahoo's open_nsfw (a thin ResNet-50)",
    File(
        "resnet_50_1by2_nsfw.caffemodel",
        (Mirror("https://github.com/yahoo/open_nsfw/raw/master/nsfw_model/resnet_50_1by2_nsfw.caffemodel"),),
        23_815_355,
        (
            Checksum(
                "sha256",
                "74b7c0374425c2b324f73b134f8a7254eab9bbddc9e452a22d934b8c17015ad2",
                "hashed by this project from nsfw 0.3.2",
            ),
            Checksum("sha1", "59c13a47b24d510649609f025e98caee6b3d37ea", "hashed by this project from nsfw 0.3.2"),
            Checksum("md5", "57c489e50253b67b98f24a43d7637203", "hashed by this project from nsfw 0.3.2"),
        ),
    ),
    task="score of pornographic content",
    terms=Terms("2-clause BSD", "yahoo/open_nsfw README", identifier="bsd-2-clause"),
    citation="Mahadeokar et al., Yahoo: Open nsfw model, 2016",
    input="(N, 3, 224, 224)",
    outputs="probabilities: harmless, pornographic",
    preprocess=imagenet_input(224, (104.0, 117.0, 123.0), "yahoo/open_nsfw classify_nsfw.py: 256×256, centre crop", (256, 256)),
    classifier="fc_nsfw",
    parameters=5_917_890,
)

CARDS = (
    RESNET50,
    RESNET101,
    RESNET152,
    SE_RESNET50,
    MOBILENET_V1,
    MOBILENET_V2,
    OPEN_NSFW,
)
