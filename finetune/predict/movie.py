"""A video of annotated frames at their real times: H.264, which browsers play, where PyAV has an encoder for it."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from finetune.video.decode import require_av

ENCODERS = ("libx264", "libopenh264")
FALLBACK = "mpeg4"
LONGEST = 1920  # pixels of the longer side
CLOCK = 1000  # ticks a second


def encoder(av: Any) -> str:
    for name in ENCODERS:
        try:
            av.codec.Codec(name, "w")
        except ValueError:  # PyAV's UnknownCodecError
            continue
        return name
    return FALLBACK


class Movie:
    """An .mp4 under way; close() makes it whole. Frames are (H, W, 3) uint8 RGB, the first one's size is the video's."""

    def __init__(self, path: Path) -> None:
        self.av = require_av()
        self.path, self.codec = path, encoder(self.av)
        self.target: Any = self.av.open(str(path.absolute()), "w", format="mp4", options={"movflags": "faststart"})
        self.stream: Any = None
        self.last = -1

    def _begin(self, height: int, width: int) -> None:
        shrink = max(1.0, max(height, width) / LONGEST)
        options = {"crf": "23", "preset": "veryfast"} if self.codec == "libx264" else {}
        self.stream = self.target.add_stream(self.codec, rate=25, options=options)
        # 4:2:0 has half the columns and rows of colour.
        self.stream.width, self.stream.height = (max(2, round(side / shrink) // 2 * 2) for side in (width, height))
        self.stream.pix_fmt = "yuv420p"
        self.stream.codec_context.time_base = Fraction(1, CLOCK)
        if self.codec != "libx264":
            self.stream.bit_rate = 4_000_000

    def add(self, image: np.ndarray, time: float) -> None:
        """A frame, `time` seconds after the first one."""
        if self.stream is None:
            self._begin(*image.shape[:2])
        frame = self.av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        frame = frame.reformat(width=self.stream.width, height=self.stream.height, format="yuv420p")
        self.last = max(self.last + 1, round(time * CLOCK))
        frame.pts, frame.time_base = self.last, Fraction(1, CLOCK)
        self.target.mux(self.stream.encode(frame))

    def close(self) -> None:
        if self.stream is not None:
            self.target.mux(self.stream.encode())
        self.target.close()
