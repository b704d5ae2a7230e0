"""Holds a converted net against an implementation that is not ours: Caffe itself where pycaffe is installed, else OpenCV 4's importer.

OpenCV 5 dropped its Caffe importer; the extra `verify` asks for the last release before it.
"""

from converter.verify.comparison import TOLERANCE, Comparison, Verification, verify

__all__ = ["TOLERANCE", "Comparison", "Verification", "verify"]
