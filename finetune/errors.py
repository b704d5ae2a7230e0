"""What goes wrong in a recipe or in its data."""


class FinetuneError(ValueError):
    """What keeps a recipe from running; the text names the file, the place, the value, and what to do."""


class SizesDiffer(FinetuneError):
    """Images or frames are of different sizes; reading them again with a `size` resizes all to it."""


class MemoryShort(FinetuneError):
    """The data, decoded, need more memory than there is; with a `size` they may need less."""


class Stopped(Exception):
    """A run was told to stop by a signal; its state is saved."""

    def __init__(self, signal: int) -> None:
        super().__init__(f"stopped by signal {signal}")
        self.signal = signal
