"""What goes wrong in a recipe or in its data."""


class FinetuneError(ValueError):
    """What keeps a recipe from running; the text names the file, the place, the value, and what to do."""


class SizesDiffer(FinetuneError):
    """Images or frames are of different sizes; reading them again with a `size` resizes all to it."""
