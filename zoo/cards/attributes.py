"""Age, gender and expressions of a face. Facts only, each with its source."""

from __future__ import annotations

from converter.preprocess import Preprocess
from zoo.cards.one_net import one_net
from zoo.cards.record import Card, Checksum, Crop, File, Mirror, Terms

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

AGE_NET = one_net(
    "age_net",
    "Levi and Hassner's age net",
    File(
        "age_net.caffemodel",
        (Mirror(f"{_LEVI}/age_net.caffemodel"), Mirror(f"{_LEVI_MIRROR}/age_net.caffemodel")),
        45_661_480,
        (
            Checksum("sha256", "6dde5d07df5ca1d66ff39e525693f05ccfb9d2c437e188fdd1a10d42e57fabd6", _LEVI_LISTS),
            Checksum("git-blob-sha1", "8391af479b658b9f4f3ace7eec6be86aae079309", _LEVI_TREE),
        ),
    ),
    task="age in eight bins",
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

GENDER_NET = one_net(
    "gender_net",
    "Levi and Hassner's gender net",
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
    task="gender",
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


def _dex(
    name: str,
    title: str,
    file: str,
    prototxt: str,
    *,
    task: str,
    outputs: str,
    classifier: str,
    parameters: int,
    labels: tuple[str, ...] = (),
) -> Card:
    return one_net(
        name,
        title,
        File(file, (Mirror(f"https://data.vision.ee.ethz.ch/cvl/rrothe/imdb-wiki/static/{file}"),)),
        prototxt=prototxt,
        task=task,
        terms=Terms(
            "the data set is for academic research only; nothing separate is said of the models",
            "the IMDB-WIKI page of ETH Zurich",
            ask=True,
        ),
        citation="Rothe, Timofte, Van Gool: DEX, ICCVW 2015; Deep Expectation, IJCV 2018",
        input="(N, 3, 224, 224), the face's box with 40 % margin",
        outputs=outputs,
        preprocess=Preprocess(
            size=(224, 224),
            channels="BGR",
            mean=(103.939, 116.779, 123.68),
            source="VGG-16's ImageNet means, which most users subtract; disputed: siriusdemon/pytorch-DEX subtracts none",
        ),
        crop=Crop(0.4, source="the paper: 40 % of the face's size on every side"),
        notes="No checksum of the caffemodel has been published.",
        classifier=classifier,
        parameters=parameters,
        labels=labels,
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
    def on_drive(name: str, drive_id: str) -> File:
        return File(name, (Mirror(f"https://drive.google.com/open?id={drive_id}"),))

    return one_net(
        f"emotiw_vgg_s_{kind}",
        f"Levi and Hassner's EmotiW 2015 VGG_S, {title}",
        on_drive("EmotiW_VGG_S.caffemodel", model),
        extra_files=(on_drive("mean.binaryproto", mean), on_drive("deploy.prototxt", deploy)),
        prototxt="deploy.prototxt",
        task="seven facial expressions",
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
        notes="No checksum has been published, and Drive may ask for a resource key. DemoDir.zip holds the same files.",
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

CARDS = (
    AGE_NET,
    GENDER_NET,
    DEX_AGE_IMDB_WIKI,
    DEX_AGE_CHALEARN,
    DEX_GENDER,
    EMOTIW_RGB,
    EMOTIW_LBP,
    EMOTIW_CYCLIC_LBP,
)
