"""The plain ImageNet nets that much of the Caffe world starts from. Facts only, each with its source."""

from __future__ import annotations

from zoo.cards.one_net import one_net
from zoo.cards.record import Checksum, File, Mirror, Terms
from zoo.cards.sources import MEXOPENCV, MODEL_YML, MODEL_YML_2022, OMZ, OPENCV_EXTRA, PROBABILITIES, imagenet_input

_CAFFE_README = "BVLC/caffe models/{}/readme.md, front matter"
_CAFFE_CLASSIFY = "BVLC/caffe python/classify.py: 256×256, centre crop; the rounded channel means of its ilsvrc_2012_mean"
_BVLC_TERMS = Terms("unrestricted", "BVLC/caffe models/*/readme.md, front matter", identifier="other")

CAFFENET = one_net(
    "bvlc_caffenet",
    "BVLC reference CaffeNet",
    File(
        "bvlc_reference_caffenet.caffemodel",
        (
            Mirror("http://dl.caffe.berkeleyvision.org/bvlc_reference_caffenet.caffemodel"),
            Mirror(f"{OMZ}/2022.1/caffenet/bvlc_reference_caffenet.caffemodel"),
        ),
        243_862_418,
        (
            Checksum(
                "sha1",
                "4c8d77deb20ea792f84eb5e6d0a11ca0a8660a46",
                f"{_CAFFE_README.format('bvlc_reference_caffenet')}; {MEXOPENCV}",
            ),
            Checksum(
                "sha256",
                "472d4a06035497b180636d8a82667129960371375bd10fcb6df5c6c7631f25e0",
                MODEL_YML.format("caffenet"),
            ),
            Checksum(
                "sha384",
                "6677844301d6c7f68f5b6a299cf41c4f0955bab7d1fb8719375fae6d05b6173db9deccf3ac4aaa4225bf6c6e99d81a68",
                MODEL_YML_2022.format("caffenet"),
            ),
        ),
    ),
    task="ImageNet classification",
    terms=_BVLC_TERMS,
    citation="Jia et al.: Caffe, ACM Multimedia 2014; after Krizhevsky, Sutskever, Hinton, NIPS 2012",
    input="(N, 3, 227, 227)",
    outputs=PROBABILITIES,
    preprocess=imagenet_input(227, (104.0, 117.0, 123.0), _CAFFE_CLASSIFY, (256, 256)),
    classifier="fc8",
    parameters=60_965_224,
)

ALEXNET = one_net(
    "bvlc_alexnet",
    "BVLC AlexNet",
    File(
        "bvlc_alexnet.caffemodel",
        (
            Mirror("http://dl.caffe.berkeleyvision.org/bvlc_alexnet.caffemodel"),
            Mirror(f"{OMZ}/2022.1/alexnet/bvlc_alexnet.caffemodel"),
            Mirror("https://nvidia.box.com/shared/static/5j264j7mky11q8emy4q14w3r8hl5v6zh.caffemodel"),
        ),
        243_862_414,
        (
            Checksum(
                "sha1",
                "9116a64c0fbe4459d18f4bb6b56d647b63920377",
                f"{_CAFFE_README.format('bvlc_alexnet')}; {MEXOPENCV}; {OPENCV_EXTRA}",
            ),
            Checksum(
                "sha256",
                "4bff209a9837298157915ef50a4831a59636a6ca1a6b8ebacd990c3a5f3053e0",
                MODEL_YML.format("alexnet"),
            ),
        ),
    ),
    task="ImageNet classification",
    terms=_BVLC_TERMS,
    citation="Krizhevsky, Sutskever, Hinton: ImageNet Classification with Deep Convolutional Neural Networks, NIPS 2012",
    input="(N, 3, 227, 227)",
    outputs=PROBABILITIES,
    preprocess=imagenet_input(227, (104.0, 117.0, 123.0), _CAFFE_CLASSIFY, (256, 256)),
    classifier="fc8",
    parameters=60_965_224,
)

GOOGLENET = one_net(
    "bvlc_googlenet",
    "BVLC GoogLeNet",
    File(
        "bvlc_googlenet.caffemodel",
        (
            Mirror("http://dl.caffe.berkeleyvision.org/bvlc_googlenet.caffemodel"),
            Mirror(f"{OMZ}/2022.1/googlenet-v1/bvlc_googlenet.caffemodel"),
            Mirror("https://nvidia.box.com/shared/static/at8b1105ww1c5h7p30j5ko8qfnxrs0eg.caffemodel"),
        ),
        53_533_754,
        (
            Checksum(
                "sha1",
                "405fc5acd08a3bb12de8ee5e23a96bec22f08204",
                f"{_CAFFE_README.format('bvlc_googlenet')}; {MEXOPENCV}; {OPENCV_EXTRA}",
            ),
            Checksum(
                "sha256",
                "6f7101e3a2183738a7125a0c5021ba82a1feb4228c5ca0924d991b6daf6f6fad",
                MODEL_YML.format("googlenet-v1"),
            ),
            Checksum(
                "sha384",
                "c95413cd55c390f439ccc9842ec5953b31f85090d5f262e3093e38c78f378acdfb069fa28da2f49dbb8b9e5c8a816276",
                MODEL_YML_2022.format("googlenet-v1"),
            ),
        ),
    ),
    task="ImageNet classification",
    terms=_BVLC_TERMS,
    citation="Szegedy et al.: Going Deeper with Convolutions, CVPR 2015",
    input="(N, 3, 224, 224)",
    outputs=PROBABILITIES,
    preprocess=imagenet_input(224, (104.0, 117.0, 123.0), _CAFFE_CLASSIFY, (256, 256)),
    classifier="loss3/classifier",
    parameters=6_998_552,
)

_VGG_PREPROCESS = imagenet_input(
    224, (103.939, 116.779, 123.68), "gist ksimonyan/211839e770f7b538e2d8; shorter side 256 as in the paper", 256
)
_VGG_TERMS = Terms(
    "CC BY 4.0 (non-commercial until June 2016)", "open_model_zoo's licence field; Lasagne/Recipes issue 71", identifier="cc-by-4.0"
)
_VGG_CITATION = "Simonyan, Zisserman: Very Deep Convolutional Networks for Large-Scale Image Recognition, ICLR 2015"
_VGG = "http://www.robots.ox.ac.uk/~vgg/software/very_deep/caffe"

VGG16 = one_net(
    "vgg16_ilsvrc",
    "VGG-16 (ILSVRC 2014)",
    File(
        "VGG_ILSVRC_16_layers.caffemodel",
        (
            Mirror(f"{_VGG}/VGG_ILSVRC_16_layers.caffemodel"),
            Mirror(f"{OMZ}/2022.1/vgg16/VGG_ILSVRC_16_layers.caffemodel"),
            Mirror("http://data.mxnet.io/models/imagenet/test/caffe/VGG_ILSVRC_16_layers.caffemodel"),
        ),
        553_432_081,
        (
            Checksum(
                "sha256",
                "a6196bc498e45ea4cb2637114ae8db9410cf1556fd60a55ae93272371beba197",
                MODEL_YML.format("vgg16"),
            ),
            Checksum("sha1", "9363e1f6d65f7dba68c4f27a1e62105cdf6c4e24", MEXOPENCV),
            Checksum(
                "sha384",
                "8ed7890af721fa22a9a356c00ec8360984f572b37991d1a5d70993ece85a0d25d675f02ff27c443523be1b61b9bb3d15",
                MODEL_YML_2022.format("vgg16"),
            ),
        ),
    ),
    task="ImageNet classification",
    terms=_VGG_TERMS,
    citation=_VGG_CITATION,
    input="(N, 3, 224, 224)",
    outputs=PROBABILITIES,
    preprocess=_VGG_PREPROCESS,
    classifier="fc8",
    parameters=138_357_544,
)

VGG19 = one_net(
    "vgg19_ilsvrc",
    "VGG-19 (ILSVRC 2014)",
    File(
        "VGG_ILSVRC_19_layers.caffemodel",
        (Mirror(f"{_VGG}/VGG_ILSVRC_19_layers.caffemodel"),),
        574_671_192,
        (
            Checksum(
                "sha256",
                "31b4c627c40c6ee151325f079b7ac557fddbd1f79af932888796127a4f4f6954",
                MODEL_YML.format("vgg19"),
            ),
        ),
    ),
    task="ImageNet classification",
    terms=_VGG_TERMS,
    citation=_VGG_CITATION,
    input="(N, 3, 224, 224)",
    outputs=PROBABILITIES,
    preprocess=_VGG_PREPROCESS,
    classifier="fc8",
    parameters=143_667_240,
)

_SQUEEZENET = "https://github.com/forresti/SqueezeNet/raw/a47b6f13d30985279789d08053d37013d67d131b"
_SQUEEZENET_TERMS = Terms("2-clause BSD", "forresti/SqueezeNet LICENSE", identifier="bsd-2-clause")
_SQUEEZENET_CITATION = "Iandola, Han, Moskewicz, Ashraf, Dally, Keutzer: SqueezeNet, arXiv 1602.07360"
_SQUEEZENET_PREPROCESS = imagenet_input(
    227, (104.0, 117.0, 123.0), "forresti/SqueezeNet train_val.prototxt: crop 227, these means; 256×256 is Caffe's habit", (256, 256)
)

SQUEEZENET1_1 = one_net(
    "squeezenet1_1",
    "SqueezeNet 1.1",
    File(
        "squeezenet_v1.1.caffemodel",
        (
            Mirror(f"{_SQUEEZENET}/SqueezeNet_v1.1/squeezenet_v1.1.caffemodel"),
            Mirror(f"{OMZ}/2022.1/squeezenet1.1/squeezenet_v1.1.caffemodel"),
        ),
        4_950_080,
        (
            Checksum("sha1", "3397f026368a45ae236403ccc81cfcbe8ebe1bd0", f"{OPENCV_EXTRA}; {MEXOPENCV}"),
            Checksum(
                "sha256",
                "72b912ace512e8621f8ff168a7d72af55910d3c7c9445af8dfbff4c2ee960142",
                MODEL_YML.format("squeezenet1.1"),
            ),
            Checksum(
                "sha384",
                "1ffe0f38d605c2c83b51cfea5fa34a4d60744ebeac5655d317146a0ce5ccf39fc40daa1a7798e3c6dc4f67c11ddb9245",
                MODEL_YML_2022.format("squeezenet1.1"),
            ),
            Checksum(
                "git-blob-sha1",
                "9d2fc33abf653a6e8b2ee6cc63ede0e72ec67f44",
                "the git tree of forresti/SqueezeNet at 51147dc0",
            ),
        ),
    ),
    task="ImageNet classification",
    terms=_SQUEEZENET_TERMS,
    citation=_SQUEEZENET_CITATION,
    input="(N, 3, 227, 227)",
    outputs="logits of 1000 ImageNet classes",
    preprocess=_SQUEEZENET_PREPROCESS,
    architecture="architectures:SqueezeNet",
    parameters=1_235_496,
)

SQUEEZENET1_0 = one_net(
    "squeezenet1_0",
    "SqueezeNet 1.0",
    File(
        "squeezenet_v1.0.caffemodel",
        (Mirror(f"{_SQUEEZENET}/SqueezeNet_v1.0/squeezenet_v1.0.caffemodel"),),
        5_001_403,
        (
            Checksum(
                "sha256",
                "9ff8035aada1f9ffa880b35252680d971434b141ec9fbacbe88309f0f9a675ce",
                MODEL_YML.format("squeezenet1.0"),
            ),
            Checksum("sha1", "579d0beb658e43c45937bf8bb5e4034fea4e1f69", MEXOPENCV),
            Checksum("git-blob-sha1", "a381d848b43d7048c3b362238ece2386c21d6ff0", "the git tree of forresti/SqueezeNet"),
        ),
    ),
    task="ImageNet classification",
    terms=_SQUEEZENET_TERMS,
    citation=_SQUEEZENET_CITATION,
    input="(N, 3, 227, 227)",
    outputs=PROBABILITIES,
    preprocess=_SQUEEZENET_PREPROCESS,
    classifier="conv10",
    parameters=1_248_424,
)

CARDS = (
    SQUEEZENET1_1,
    SQUEEZENET1_0,
    CAFFENET,
    ALEXNET,
    GOOGLENET,
    VGG16,
    VGG19,
)
