"""Packages that only some commands need, and the words that install them."""

from zoo.terminal import missing as missing
from zoo.terminal import require as require
from zoo.terminal import to_install as to_install

TRAINING = ("accelerate", "PIL", "torchmetrics", "matplotlib", "jinja2")  # the last three for the report, after hours of training
