"""Where `read` and `Expressions` lay before they moved to finetune.images.data: scripts of then go on working."""

from finetune.images.data import Expressions, read

__all__ = ["Expressions", "read"]
