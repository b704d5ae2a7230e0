"""Nets that tell faces apart: a descriptor, or identities. Facts only, each with its source."""

from __future__ import annotations

from converter.preprocess import Preprocess
from zoo.cards.one_net import one_net
from zoo.cards.record import Archive, Card, Checksum, Crop, File, Mirror, Terms, Threshold

# --- VGG-Face ----------------------------------------------------------------------------------------------------

_VGG_FACE_TAR = (Checksum("md5", "ee707ac6e890bc148cb155adeaad12be", "bob.bio.face 2200c110, embeddings/opencv.py"),)
_VGG_FACE_URLS = (
    "https://www.robots.ox.ac.uk/~vgg/software/vgg_face/src/vgg_face_caffe.tar.gz",
    "http://bobconda.lab.idiap.ch/public-upload/data/bob/bob.bio.face/master/caffe/vgg_face_caffe.tar.gz",
)

VGG_FACE = one_net(
    "vgg_face",
    "VGG-Face (16 layers, 2622 identities)",
    File(
        "VGG_FACE.caffemodel",
        tuple(Mirror(url, Archive("vgg_face_caffe/VGG_FACE.caffemodel", checksums=_VGG_FACE_TAR)) for url in _VGG_FACE_URLS),
        580_013_788,
        (
            Checksum(
                "sha256",
                "2a2e9bb87ff4125caafa17dc70f9bb6c649253855c0d92f869f9e662b9f07f4f",
                "sherrysherryli/cs280_final_project 46143699, Git LFS pointer of vgg_face_caffe/VGG_FACE.caffemodel",
            ),
        ),
    ),
    extra_files=(
        File(
            "names.txt",
            tuple(Mirror(url, Archive("vgg_face_caffe/names.txt", checksums=_VGG_FACE_TAR)) for url in _VGG_FACE_URLS),
            needed=False,
        ),
    ),
    task="face identification, face descriptor",
    terms=Terms(
        "CC BY-NC 4.0: non-commercial use only",
        "deepfakes/faceswap lib/vgg_face.py and the authors' page as read in serengil/deepface issue 136",
        ask=True,
        identifier="cc-by-nc-4.0",
    ),
    citation="Parkhi, Vedaldi, Zisserman: Deep Face Recognition, BMVC 2015",
    input="(N, 3, 224, 224)",
    outputs="logits of 2622 identities; features('fc7') gives the 4096-d descriptor",
    preprocess=Preprocess(
        size=(224, 224),
        channels="BGR",
        mean=(93.5940, 104.7624, 129.1863),
        source="the authors' matcaffe_demo.m: RGB minus (129.1863, 104.7624, 93.5940), then the channels reversed",
    ),
    architecture="architectures:VGGFace",
    parameters=145_002_878,
    labels_file="names.txt",
    crop=Crop(0.1, source="the paper aligns nothing in training; how much is seen around the face is a choice of this project"),
    notes="A widely copied snippet flips to BGR and then subtracts the means in R, G, B order; that is wrong.",
)

# --- of aligned faces --------------------------------------------------------------------------------------------

CENTER_LOSS_FACE = one_net(
    "center_loss_face",
    "Center-loss face net (ydwen/caffe-face)",
    File(
        "face_model.caffemodel",
        (Mirror("https://drive.google.com/open?id=0B_geeR2lTMegUzlSdG5wZ1V5WU0"),),
    ),
    task="face descriptor",
    terms=Terms(
        "the repository is MIT; nothing is said of the weights or of their training data",
        "ydwen/caffe-face LICENSE",
    ),
    citation="Wen, Zhang, Li, Qiao: A Discriminative Feature Learning Approach for Deep Face Recognition, ECCV 2016",
    input="(N, 3, 112, 96), a face aligned by five points",
    outputs="the 512-d embedding fc5; the authors concatenate the mirrored image's",
    preprocess=Preprocess(
        size=(112, 96),
        channels="BGR",
        mean=(127.5, 127.5, 127.5),
        scale=1 / 128,
        source="ydwen/caffe-face face_example/extractDeepFeature.m",
    ),
    architecture="architectures:CenterLossFace",
    crop=Crop(align=True, source="ydwen/caffe-face face_example/extractDeepFeature.m"),
    parameters=27_543_072,
    notes=(
        "No checksum has been published. Eye centres, nose tip and mouth corners are aligned to (30.2946, 51.6963), "
        "(65.5318, 51.5014), (48.0252, 71.7366), (33.5493, 92.3655), (62.7299, 92.2041). Drive may ask for a resource "
        "key, and none is public for this file."
    ),
)

SPHEREFACE20 = one_net(
    "sphereface20",
    "SphereFace-20",
    File(
        "sphereface_model.caffemodel",
        (
            Mirror("https://storage.openvinotoolkit.org/repositories/open_model_zoo/public/2021.4/Sphereface/sphereface_model.caffemodel"),
            Mirror("https://drive.google.com/open?id=0B_geeR2lTMegb2F6dmlmOXhWaVk&resourcekey=0-q8b8x8BkzLz-kotTIB0UoQ"),
        ),
        90_688_218,
        (
            Checksum(
                "sha256",
                "092d8fb00291d80ed7e43f7c9323693581cd75e734be3c52764525043288a20d",
                "openvinotoolkit/open_model_zoo 2021.4.2, models/public/Sphereface/model.yml",
            ),
            Checksum(
                "sha384",
                "52c285241df28b9b2da263ff272d4b97d3a47d3e0c82881a0693097f286e9e53342650b0b8fc6cfef8202ab399b4bfdd",
                "openvinotoolkit/open_model_zoo 2022.1.0, models/public/Sphereface/model.yml",
            ),
        ),
    ),
    task="face descriptor",
    terms=Terms("the repository is MIT", "wy1iu/sphereface LICENSE", identifier="mit"),
    citation="Liu, Wen, Yu, Li, Raj, Song: SphereFace, CVPR 2017",
    input="(N, 3, 112, 96), a face aligned by MTCNN's five points",
    outputs="the 512-d embedding fc5, compared by cosine",
    preprocess=Preprocess(
        size=(112, 96),
        channels="BGR",
        mean=(127.5, 127.5, 127.5),
        scale=1 / 128,
        source="openvinotoolkit/open_model_zoo 2021.4.2, models/public/Sphereface/model.yml and README.md",
    ),
    architecture="architectures:SphereFace20",
    crop=Crop(align=True, source="wy1iu/sphereface preprocess/code/face_align_demo.m"),
    parameters=22_670_656,
)

MOBILEFACENET = one_net(
    "mobilefacenet",
    "MobileFaceNet (honghuCode/mobileFacenet-ncnn)",
    File(
        "mobilefacenet.caffemodel",
        (
            Mirror(
                "https://github.com/honghuCode/mobileFacenet-ncnn/raw/feature/mobilefacenet-mxnet2caffe/mobilefacenet.prototxt.caffemodel"
            ),
        ),
        4_028_434,
        (
            Checksum(
                "sha256",
                "eca9bf613419952934de228ea20cf8aa644d450f0d41302f06871ce8cdec49ba",
                "hashed by this project from the repository's file, branch feature/mobilefacenet-mxnet2caffe",
            ),
        ),
    ),
    task="face descriptor",
    terms=Terms("the repository states no licence, so every right is reserved to its author", "honghuCode/mobileFacenet-ncnn"),
    citation="Chen, Liu, Gao, Han: MobileFaceNets, CCBR 2018",
    input="(N, 3, 112, 112), an aligned face",
    outputs="the 128-d embedding fc1, compared by cosine",
    preprocess=Preprocess(
        size=(112, 112),
        channels="RGB",
        mean=(128.0, 128.0, 128.0),
        scale=1 / 128,
        source="honghuCode/mobileFacenet-ncnn caffe_forward.py; RGB, unlike most Caffe nets: it came from MXNet",
    ),
    architecture="architectures:MobileFaceNet",
    crop=Crop(align=True, source="an aligned face, as its input says; 112×112 show 8 columns more at the left and right"),
    threshold=Threshold(
        0.332,
        "benchmarks/lfw.py on 1,600 pairs of LFW, grey upright crops that are not aligned: 98.8 ± 0.2 % judged rightly in ten folds,"
        " 0.6 % of different people taken for one; other pictures may need another",
    ),
    parameters=979_200,
)

# --- VGGFace2 ----------------------------------------------------------------------------------------------------


def _vggface2(kind: str, title: str, outputs: str) -> Card:
    url = f"http://www.robots.ox.ac.uk/~vgg/data/vgg_face2/models/caffe/{kind}_caffe.tar.gz"

    def in_archive(name: str) -> File:
        return File(name, (Mirror(url, Archive(f"{kind}_caffe/{name}")),))

    return one_net(
        f"vggface2_{kind}",
        f"VGGFace2, {title}",
        in_archive(f"{kind}.caffemodel"),
        extra_files=(in_archive(f"{kind}.prototxt"),),
        prototxt=f"{kind}.prototxt",
        task="face descriptor" if kind.endswith(("128", "256")) else "face identification, face descriptor",
        terms=Terms(
            "as the data set: CC BY-SA 4.0; the authors' university withdrew the data set and the links in December 2020",
            "WeidiXie/Keras-VGGFace2-ResNet50 issue 2; ox-vgg/vgg_face2 issues 49, 50, 54",
            identifier="cc-by-sa-4.0",
        ),
        citation="Cao, Shen, Xie, Parkhi, Zisserman: VGGFace2, FG 2018",
        input="(N, 3, 224, 224), MTCNN's box extended by 0.3",
        outputs=outputs,
        preprocess=Preprocess(
            size=(224, 224),
            resize=256,
            channels="BGR",
            mean=(91.4953, 103.8827, 131.0912),
            source="the archive's README; cydonia999/VGGFace2-pytorch datasets/vgg_face2.py",
        ),
        crop=Crop(0.15, source="the archive's README: MTCNN's box extended by a factor of 0.3"),
        parameters=None,
        structure=f"vggface2_{kind.partition('_')[0]}.prototxt" if kind.endswith(("_ft", "_scratch")) else "",
        notes="The authors' links are dead and no checksum has been published: if you have the archive, zoo.add takes it."
        " The 8631-way nets are also taken in the forms of pytorch-mcn and keras-vggface (docs/zoo.md).",
    )


_SCORES = "scores of 8631 identities; the blob before them is the 2048-d descriptor"
VGGFACE2 = (
    _vggface2("resnet50_scratch", "ResNet-50 trained from scratch", _SCORES),
    _vggface2("resnet50_ft", "ResNet-50 from MS-Celeb-1M", _SCORES),
    _vggface2("senet50_scratch", "SE-ResNet-50 trained from scratch", _SCORES),
    _vggface2("senet50_ft", "SE-ResNet-50 from MS-Celeb-1M", _SCORES),
    _vggface2("resnet50_256", "ResNet-50 with a 256-d embedding", "the 256-d embedding"),
    _vggface2("resnet50_128", "ResNet-50 with a 128-d embedding", "the 128-d embedding"),
    _vggface2("senet50_256", "SE-ResNet-50 with a 256-d embedding", "the 256-d embedding"),
    _vggface2("senet50_128", "SE-ResNet-50 with a 128-d embedding", "the 128-d embedding"),
)

CARDS = (
    VGG_FACE,
    CENTER_LOSS_FACE,
    SPHEREFACE20,
    MOBILEFACENET,
    *VGGFACE2,
)
