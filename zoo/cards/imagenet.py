"""The ImageNet models that much of the Caffe world starts from, and open_nsfw. Facts only, each with its source."""

from __future__ import annotations

from converter.preprocess import Preprocess
from zoo.cards.record import Card, Checksum, File, Mirror, Network, Terms

_OMZ = "https://storage.openvinotoolkit.org/repositories/open_model_zoo/public"
_MODEL_YML = "openvinotoolkit/open_model_zoo 2021.4.2, models/public/{}/model.yml"
_MODEL_YML_2022 = "openvinotoolkit/open_model_zoo 2022.1.0, models/public/{}/model.yml"
_CAFFE_README = "BVLC/caffe models/{}/readme.md, front matter"
_MEXOPENCV = "kyamagu/mexopencv d29007b2, samples/dnn_image_classification_demo.m"
_OPENCV_EXTRA = "opencv/opencv_extra 00a935f9, testdata/dnn/download_models.py"

_BVLC_TERMS = Terms("unrestricted", "BVLC/caffe models/*/readme.md, front matter")


def _imagenet(size: int, mean: tuple[float, float, float], source: str, resize: tuple[int, int] | int) -> Preprocess:
    return Preprocess(size=(size, size), resize=resize, channels="BGR", mean=mean, source=source)


_CAFFE_CLASSIFY = "BVLC/caffe python/classify.py: 256×256, centre crop; the rounded channel means of its ilsvrc_2012_mean"
_PROBABILITIES = "probabilities of 1000 ImageNet classes"

CAFFENET = Card(
    name="bvlc_caffenet",
    title="BVLC reference CaffeNet",
    task="ImageNet classification",
    files=(
        File(
            "bvlc_reference_caffenet.caffemodel",
            (
                Mirror("http://dl.caffe.berkeleyvision.org/bvlc_reference_caffenet.caffemodel"),
                Mirror(f"{_OMZ}/2022.1/caffenet/bvlc_reference_caffenet.caffemodel"),
            ),
            243_862_418,
            (
                Checksum(
                    "sha1",
                    "4c8d77deb20ea792f84eb5e6d0a11ca0a8660a46",
                    f"{_CAFFE_README.format('bvlc_reference_caffenet')}; {_MEXOPENCV}",
                ),
                Checksum(
                    "sha256",
                    "472d4a06035497b180636d8a82667129960371375bd10fcb6df5c6c7631f25e0",
                    _MODEL_YML.format("caffenet"),
                ),
                Checksum(
                    "sha384",
                    "6677844301d6c7f68f5b6a299cf41c4f0955bab7d1fb8719375fae6d05b6173db9deccf3ac4aaa4225bf6c6e99d81a68",
                    _MODEL_YML_2022.format("caffenet"),
                ),
            ),
        ),
    ),
    networks=(Network("bvlc_caffenet.prototxt", "bvlc_reference_caffenet.caffemodel"),),
    terms=_BVLC_TERMS,
    citation="Jia et al.: Caffe, ACM Multimedia 2014; after Krizhevsky, Sutskever, Hinton, NIPS 2012",
    input="(N, 3, 227, 227)",
    outputs=_PROBABILITIES,
    preprocess=_imagenet(227, (104.0, 117.0, 123.0), _CAFFE_CLASSIFY, (256, 256)),
    classifier="fc8",
    parameters=60_965_224,
)

ALEXNET = Card(
    name="bvlc_alexnet",
    title="BVLC AlexNet",
    task="ImageNet classification",
    files=(
        File(
            "bvlc_alexnet.caffemodel",
            (
                Mirror("http://dl.caffe.berkeleyvision.org/bvlc_alexnet.caffemodel"),
                Mirror(f"{_OMZ}/2022.1/alexnet/bvlc_alexnet.caffemodel"),
                Mirror("https://nvidia.box.com/shared/static/5j264j7mky11q8emy4q14w3r8hl5v6zh.caffemodel"),
            ),
            243_862_414,
            (
                Checksum(
                    "sha1",
                    "9116a64c0fbe4459d18f4bb6b56d647b63920377",
                    f"{_CAFFE_README.format('bvlc_alexnet')}; {_MEXOPENCV}; {_OPENCV_EXTRA}",
                ),
                Checksum(
                    "sha256",
                    "4bff209a9837298157915ef50a4831a59636a6ca1a6b8ebacd990c3a5f3053e0",
                    _MODEL_YML.format("alexnet"),
                ),
            ),
        ),
    ),
    networks=(Network("bvlc_alexnet.prototxt", "bvlc_alexnet.caffemodel"),),
    terms=_BVLC_TERMS,
    citation="Krizhevsky, Sutskever, Hinton: ImageNet Classification with Deep Convolutional Neural Networks, NIPS 2012",
    input="(N, 3, 227, 227)",
    outputs=_PROBABILITIES,
    preprocess=_imagenet(227, (104.0, 117.0, 123.0), _CAFFE_CLASSIFY, (256, 256)),
    classifier="fc8",
    parameters=60_965_224,
)

GOOGLENET = Card(
    name="bvlc_googlenet",
    title="BVLC GoogLeNet",
    task="ImageNet classification",
    files=(
        File(
            "bvlc_googlenet.caffemodel",
            (
                Mirror("http://dl.caffe.berkeleyvision.org/bvlc_googlenet.caffemodel"),
                Mirror(f"{_OMZ}/2022.1/googlenet-v1/bvlc_googlenet.caffemodel"),
                Mirror("https://nvidia.box.com/shared/static/at8b1105ww1c5h7p30j5ko8qfnxrs0eg.caffemodel"),
            ),
            53_533_754,
            (
                Checksum(
                    "sha1",
                    "405fc5acd08a3bb12de8ee5e23a96bec22f08204",
                    f"{_CAFFE_README.format('bvlc_googlenet')}; {_MEXOPENCV}; {_OPENCV_EXTRA}",
                ),
                Checksum(
                    "sha256",
                    "6f7101e3a2183738a7125a0c5021ba82a1feb4228c5ca0924d991b6daf6f6fad",
                    _MODEL_YML.format("googlenet-v1"),
                ),
                Checksum(
                    "sha384",
                    "c95413cd55c390f439ccc9842ec5953b31f85090d5f262e3093e38c78f378acdfb069fa28da2f49dbb8b9e5c8a816276",
                    _MODEL_YML_2022.format("googlenet-v1"),
                ),
            ),
        ),
    ),
    networks=(Network("bvlc_googlenet.prototxt", "bvlc_googlenet.caffemodel"),),
    terms=_BVLC_TERMS,
    citation="Szegedy et al.: Going Deeper with Convolutions, CVPR 2015",
    input="(N, 3, 224, 224)",
    outputs=_PROBABILITIES,
    preprocess=_imagenet(224, (104.0, 117.0, 123.0), _CAFFE_CLASSIFY, (256, 256)),
    classifier="loss3/classifier",
    parameters=6_998_552,
)

_VGG_PREPROCESS = _imagenet(224, (103.939, 116.779, 123.68), "gist ksimonyan/211839e770f7b538e2d8; shorter side 256 as in the paper", 256)
_VGG_TERMS = Terms("CC BY 4.0 (non-commercial until June 2016)", "open_model_zoo's licence field; Lasagne/Recipes issue 71")
_VGG_CITATION = "Simonyan, Zisserman: Very Deep Convolutional Networks for Large-Scale Image Recognition, ICLR 2015"
_VGG = "http://www.robots.ox.ac.uk/~vgg/software/very_deep/caffe"

VGG16 = Card(
    name="vgg16_ilsvrc",
    title="VGG-16 (ILSVRC 2014)",
    task="ImageNet classification",
    files=(
        File(
            "VGG_ILSVRC_16_layers.caffemodel",
            (
                Mirror(f"{_VGG}/VGG_ILSVRC_16_layers.caffemodel"),
                Mirror(f"{_OMZ}/2022.1/vgg16/VGG_ILSVRC_16_layers.caffemodel"),
                Mirror("http://data.mxnet.io/models/imagenet/test/caffe/VGG_ILSVRC_16_layers.caffemodel"),
            ),
            553_432_081,
            (
                Checksum(
                    "sha256",
                    "a6196bc498e45ea4cb2637114ae8db9410cf1556fd60a55ae93272371beba197",
                    _MODEL_YML.format("vgg16"),
                ),
                Checksum("sha1", "9363e1f6d65f7dba68c4f27a1e62105cdf6c4e24", _MEXOPENCV),
                Checksum(
                    "sha384",
                    "8ed7890af721fa22a9a356c00ec8360984f572b37991d1a5d70993ece85a0d25d675f02ff27c443523be1b61b9bb3d15",
                    _MODEL_YML_2022.format("vgg16"),
                ),
            ),
        ),
    ),
    networks=(Network("vgg16_ilsvrc.prototxt", "VGG_ILSVRC_16_layers.caffemodel"),),
    terms=_VGG_TERMS,
    citation=_VGG_CITATION,
    input="(N, 3, 224, 224)",
    outputs=_PROBABILITIES,
    preprocess=_VGG_PREPROCESS,
    classifier="fc8",
    parameters=138_357_544,
)

VGG19 = Card(
    name="vgg19_ilsvrc",
    title="VGG-19 (ILSVRC 2014)",
    task="ImageNet classification",
    files=(
        File(
            "VGG_ILSVRC_19_layers.caffemodel",
            (Mirror(f"{_VGG}/VGG_ILSVRC_19_layers.caffemodel"),),
            574_671_192,
            (
                Checksum(
                    "sha256",
                    "31b4c627c40c6ee151325f079b7ac557fddbd1f79af932888796127a4f4f6954",
                    _MODEL_YML.format("vgg19"),
                ),
            ),
        ),
    ),
    networks=(Network("vgg19_ilsvrc.prototxt", "VGG_ILSVRC_19_layers.caffemodel"),),
    terms=_VGG_TERMS,
    citation=_VGG_CITATION,
    input="(N, 3, 224, 224)",
    outputs=_PROBABILITIES,
    preprocess=_VGG_PREPROCESS,
    classifier="fc8",
    parameters=143_667_240,
)

_SQUEEZENET = "https://github.com/forresti/SqueezeNet/raw/a47b6f13d30985279789d08053d37013d67d131b"
_SQUEEZENET_TERMS = Terms("2-clause BSD", "forresti/SqueezeNet LICENSE")
_SQUEEZENET_CITATION = "Iandola, Han, Moskewicz, Ashraf, Dally, Keutzer: SqueezeNet, arXiv 1602.07360"
_SQUEEZENET_PREPROCESS = _imagenet(
    227, (104.0, 117.0, 123.0), "forresti/SqueezeNet train_val.prototxt: crop 227, these means; 256×256 is Caffe's habit", (256, 256)
)

SQUEEZENET1_1 = Card(
    name="squeezenet1_1",
    title="SqueezeNet 1.1",
    task="ImageNet classification",
    files=(
        File(
            "squeezenet_v1.1.caffemodel",
            (
                Mirror(f"{_SQUEEZENET}/SqueezeNet_v1.1/squeezenet_v1.1.caffemodel"),
                Mirror(f"{_OMZ}/2022.1/squeezenet1.1/squeezenet_v1.1.caffemodel"),
            ),
            4_950_080,
            (
                Checksum("sha1", "3397f026368a45ae236403ccc81cfcbe8ebe1bd0", f"{_OPENCV_EXTRA}; {_MEXOPENCV}"),
                Checksum(
                    "sha256",
                    "72b912ace512e8621f8ff168a7d72af55910d3c7c9445af8dfbff4c2ee960142",
                    _MODEL_YML.format("squeezenet1.1"),
                ),
                Checksum(
                    "sha384",
                    "1ffe0f38d605c2c83b51cfea5fa34a4d60744ebeac5655d317146a0ce5ccf39fc40daa1a7798e3c6dc4f67c11ddb9245",
                    _MODEL_YML_2022.format("squeezenet1.1"),
                ),
                Checksum(
                    "git-blob-sha1",
                    "9d2fc33abf653a6e8b2ee6cc63ede0e72ec67f44",
                    "the git tree of forresti/SqueezeNet at 51147dc0",
                ),
            ),
        ),
    ),
    networks=(Network("squeezenet1_1.prototxt", "squeezenet_v1.1.caffemodel"),),
    terms=_SQUEEZENET_TERMS,
    citation=_SQUEEZENET_CITATION,
    input="(N, 3, 227, 227)",
    outputs="logits of 1000 ImageNet classes",
    preprocess=_SQUEEZENET_PREPROCESS,
    architecture="architectures:SqueezeNet",
    parameters=1_235_496,
)

SQUEEZENET1_0 = Card(
    name="squeezenet1_0",
    title="SqueezeNet 1.0",
    task="ImageNet classification",
    files=(
        File(
            "squeezenet_v1.0.caffemodel",
            (Mirror(f"{_SQUEEZENET}/SqueezeNet_v1.0/squeezenet_v1.0.caffemodel"),),
            5_001_403,
            (
                Checksum(
                    "sha256",
                    "9ff8035aada1f9ffa880b35252680d971434b141ec9fbacbe88309f0f9a675ce",
                    _MODEL_YML.format("squeezenet1.0"),
                ),
                Checksum("sha1", "579d0beb658e43c45937bf8bb5e4034fea4e1f69", _MEXOPENCV),
                Checksum("git-blob-sha1", "a381d848b43d7048c3b362238ece2386c21d6ff0", "the git tree of forresti/SqueezeNet"),
            ),
        ),
    ),
    networks=(Network("squeezenet1_0.prototxt", "squeezenet_v1.0.caffemodel"),),
    terms=_SQUEEZENET_TERMS,
    citation=_SQUEEZENET_CITATION,
    input="(N, 3, 227, 227)",
    outputs=_PROBABILITIES,
    preprocess=_SQUEEZENET_PREPROCESS,
    classifier="conv10",
    parameters=1_248_424,
)


def _resnet(depth: int, parameters: int, file: File) -> Card:
    return Card(
        name=f"resnet{depth}",
        title=f"ResNet-{depth} (Kaiming He)",
        task="ImageNet classification",
        files=(file,),
        networks=(Network(f"resnet{depth}.prototxt", file.name),),
        terms=Terms("MIT (the repository)", "KaimingHe/deep-residual-networks LICENSE"),
        citation="He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, CVPR 2016",
        input="(N, 3, 224, 224)",
        outputs=_PROBABILITIES,
        preprocess=_imagenet(
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
            Checksum("sha1", "b7c79ccc21ad0479cddc0dd78b1d20c4d722908d", f"{_OPENCV_EXTRA}; {_MEXOPENCV}"),
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
_SHICAI_TERMS = Terms("3-clause BSD", "shicai/MobileNet-Caffe LICENSE")
_SHICAI_PREPROCESS = Preprocess(
    size=(224, 224),
    resize=256,
    channels="BGR",
    mean=(103.94, 116.78, 123.68),
    scale=0.017,
    source="shicai/MobileNet-Caffe README: BGR means, scale 0.017, crop 224 of 256×N",
)

MOBILENET_V1 = Card(
    name="mobilenet_v1",
    title="MobileNet 1.0 (shicai)",
    task="ImageNet classification",
    files=(
        File(
            "mobilenet.caffemodel",
            (Mirror(f"{_SHICAI}/mobilenet.caffemodel"),),
            17_027_058,
            (
                Checksum(
                    "sha256",
                    "8d6edcd3dbd1356f2f19dd220c362c2ba8f44233a9b6c12ca6d0351cb0c446b6",
                    _MODEL_YML.format("mobilenet-v1-1.0-224"),
                ),
                Checksum(
                    "git-blob-sha1",
                    "132e56b5f14874090622a8287f208e5eac3d8440",
                    "the git tree of shicai/MobileNet-Caffe",
                ),
            ),
        ),
    ),
    networks=(Network("mobilenet_v1.prototxt", "mobilenet.caffemodel"),),
    terms=_SHICAI_TERMS,
    citation="Howard et al.: MobileNets, arXiv 1704.04861",
    input="(N, 3, 224, 224)",
    outputs="logits (N, 1000, 1, 1) of ImageNet classes",
    preprocess=_SHICAI_PREPROCESS,
    classifier="fc7",
    parameters=4_231_976,
)

MOBILENET_V2 = Card(
    name="mobilenet_v2",
    title="MobileNet v2 (shicai)",
    task="ImageNet classification",
    files=(
        File(
            "mobilenet_v2.caffemodel",
            (
                Mirror(f"{_SHICAI}/mobilenet_v2.caffemodel"),
                Mirror(f"{_OMZ}/2022.1/mobilenet-v2/mobilenet_v2.caffemodel"),
            ),
            14_186_496,
            (
                Checksum(
                    "sha256",
                    "a3124ce7abd258c7f35a2c586576bee8116934fa2a8556e4e528041859dd753f",
                    _MODEL_YML.format("mobilenet-v2"),
                ),
                Checksum(
                    "git-blob-sha1",
                    "901c2b5515da944d152e1aa0c3e71108eb227576",
                    "the git tree of shicai/MobileNet-Caffe",
                ),
            ),
        ),
    ),
    networks=(Network("mobilenet_v2.prototxt", "mobilenet_v2.caffemodel"),),
    terms=_SHICAI_TERMS,
    citation="Sandler, Howard, Zhu, Zhmoginov, Chen: MobileNetV2, CVPR 2018",
    input="(N, 3, 224, 224)",
    outputs="probabilities (N, 1000, 1, 1) of ImageNet classes",
    preprocess=_SHICAI_PREPROCESS,
    classifier="fc7",
    parameters=3_505_960,
)

SE_RESNET50 = Card(
    name="se_resnet50",
    title="SE-ResNet-50 (hujie-frank/SENet)",
    task="ImageNet classification",
    files=(
        File(
            "SE-ResNet-50.caffemodel",
            (Mirror(f"{_OMZ}/2021.4/se-resnet-50/SE-ResNet-50.caffemodel"),),
            112_602_669,
            (
                Checksum(
                    "sha256",
                    "72880fde3bd29b324bb302c80f49a098b8970597494c56525fd410a8d2ed5993",
                    _MODEL_YML.format("se-resnet-50"),
                ),
            ),
        ),
    ),
    networks=(Network("se_resnet50.prototxt", "SE-ResNet-50.caffemodel"),),
    terms=Terms("Apache 2.0", "hujie-frank/SENet LICENSE; open_model_zoo's page of se-resnet-50"),
    citation="Hu, Shen, Sun: Squeeze-and-Excitation Networks, CVPR 2018",
    input="(N, 3, 224, 224)",
    outputs=_PROBABILITIES,
    preprocess=_imagenet(
        224,
        (104.0, 117.0, 123.0),
        "open_model_zoo's page of se-resnet-50 (BGR, these means); hujie-frank/SENet README (shorter side 256)",
        256,
    ),
    classifier="classifier",
    parameters=28_088_024,
)

OPEN_NSFW = Card(
    name="open_nsfw",
    title="Yahoo's open_nsfw (a thin ResNet-50)",
    task="score of pornographic content",
    files=(
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
    ),
    networks=(Network("open_nsfw.prototxt", "resnet_50_1by2_nsfw.caffemodel"),),
    terms=Terms("2-clause BSD", "yahoo/open_nsfw README"),
    citation="Mahadeokar et al., Yahoo: Open nsfw model, 2016",
    input="(N, 3, 224, 224)",
    outputs="probabilities: harmless, pornographic",
    preprocess=_imagenet(224, (104.0, 117.0, 123.0), "yahoo/open_nsfw classify_nsfw.py: 256×256, centre crop", (256, 256)),
    classifier="fc_nsfw",
    parameters=5_917_890,
)

CARDS = (
    SQUEEZENET1_1,
    SQUEEZENET1_0,
    CAFFENET,
    ALEXNET,
    GOOGLENET,
    VGG16,
    VGG19,
    RESNET50,
    RESNET101,
    RESNET152,
    SE_RESNET50,
    MOBILENET_V1,
    MOBILENET_V2,
    OPEN_NSFW,
)
