"""V1LayerParameter.LayerType: Caffe's layer types before 2014-12 were numbers; here with the names that they have today."""

from __future__ import annotations

# name of the enum value: (its number, LayerParameter.type since V2)
V1_TYPES = {
    "NONE": (0, ""),
    "ACCURACY": (1, "Accuracy"),
    "BNLL": (2, "BNLL"),
    "CONCAT": (3, "Concat"),
    "CONVOLUTION": (4, "Convolution"),
    "DATA": (5, "Data"),
    "DROPOUT": (6, "Dropout"),
    "EUCLIDEAN_LOSS": (7, "EuclideanLoss"),
    "FLATTEN": (8, "Flatten"),
    "HDF5_DATA": (9, "HDF5Data"),
    "HDF5_OUTPUT": (10, "HDF5Output"),
    "IM2COL": (11, "Im2col"),
    "IMAGE_DATA": (12, "ImageData"),
    "INFOGAIN_LOSS": (13, "InfogainLoss"),
    "INNER_PRODUCT": (14, "InnerProduct"),
    "LRN": (15, "LRN"),
    "MULTINOMIAL_LOGISTIC_LOSS": (16, "MultinomialLogisticLoss"),
    "POOLING": (17, "Pooling"),
    "RELU": (18, "ReLU"),
    "SIGMOID": (19, "Sigmoid"),
    "SOFTMAX": (20, "Softmax"),
    "SOFTMAX_LOSS": (21, "SoftmaxWithLoss"),
    "SPLIT": (22, "Split"),
    "TANH": (23, "TanH"),
    "WINDOW_DATA": (24, "WindowData"),
    "ELTWISE": (25, "Eltwise"),
    "POWER": (26, "Power"),
    "SIGMOID_CROSS_ENTROPY_LOSS": (27, "SigmoidCrossEntropyLoss"),
    "HINGE_LOSS": (28, "HingeLoss"),
    "MEMORY_DATA": (29, "MemoryData"),
    "ARGMAX": (30, "ArgMax"),
    "THRESHOLD": (31, "Threshold"),
    "DUMMY_DATA": (32, "DummyData"),
    "SLICE": (33, "Slice"),
    "MVN": (34, "MVN"),
    "ABSVAL": (35, "AbsVal"),
    "SILENCE": (36, "Silence"),
    "CONTRASTIVE_LOSS": (37, "ContrastiveLoss"),
    "EXP": (38, "Exp"),
    "DECONVOLUTION": (39, "Deconvolution"),
}
# Names that forks add; their numbers clash, and a prototxt has the name
V1_FORK_TYPES = {
    "INSANITY": "Insanity",  # happynear/caffe-windows
    "LOCAL": "Local",  # happynear/caffe-windows
    "LRN_MAP": "LRNMap",  # BVLC's branches of 2013
    "PRELU": "PReLU",  # happynear/caffe-windows
    "ROI_POOLING": "ROIPooling",  # Fast R-CNN
    "ROIPOOLING": "ROIPooling",  # happynear/caffe-windows
    "SMOOTH_L1_LOSS": "SmoothL1Loss",  # Fast R-CNN
    "SPATIAL_PYRAMID_POOLING": "SpatialPyramidPooling",  # BVLC's R-CNN branch
    "UNPOOLING": "Unpooling",  # DeconvNet
    "UPSAMPLE": "Upsample",  # SegNet
}
V1_TYPE_NUMBERS = dict(V1_TYPES.values())
