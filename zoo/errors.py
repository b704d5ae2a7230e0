"""What can go wrong between a model's name and its weights.

ZooError
├── UnknownModel    no card has this name
├── TermsNotAccepted  the licence asks something of the user that has not been agreed to
├── Unverified      no checksum has been published for the file
├── Offline         the file is not in the cache and the network is switched off
├── ProofError      the bytes are not the published ones
├── FetchError      every mirror failed
├── CacheError      the cache cannot be written: read-only, full, no permission
├── LoadError       the weights do not fit the architecture, or a run folder or Caffe net cannot be loaded
├── EmbeddingError  the model gives no embedding of a picture
├── PictureError    a file is no picture that is read here, or not a whole one
└── SaveError       the model has no Caffe form, or its files cannot be written
"""

from converter.errors import counted as counted
from converter.errors import printable as printable  # zoo and finetune print strangers' names with it


class ZooError(Exception):
    """Base of everything the zoo raises on purpose; its text says what to do next."""


class UnknownModel(ZooError, LookupError):
    pass


class TermsNotAccepted(ZooError):
    pass


class Unverified(ZooError):
    pass


class Offline(ZooError):
    pass


class ProofError(ZooError):
    pass


class FetchError(ZooError):
    pass


class CacheError(ZooError, OSError):
    pass


class LoadError(ZooError):
    pass


class EmbeddingError(ZooError):
    pass


class PictureError(ZooError):
    pass


class SaveError(ZooError):
    pass
