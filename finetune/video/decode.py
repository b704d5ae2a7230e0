"""A video file becomes frames: upright, with square pixels, in the order of presentation. PyAV (FFmpeg's libraries) decodes.

Files are hostile: they are opened by their content alone and may not refer to other files or to the network.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from finetune.errors import FinetuneError
from finetune.extras import to_install
from zoo.errors import counted

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

# FFmpeg's names of demuxers. Those that open further files (hls, concat, dash, image2) are left out on purpose.
CONTAINERS = "3gp,asf,avi,flv,h264,hevc,m4v,matroska,mov,mp4,mpeg,mpegts,mpegvideo,ogg,webm"
CLOSED = {"protocol_whitelist": "none", "format_whitelist": CONTAINERS}
LARGEST = 64 << 20  # pixels of a frame: 8K has 33 million
STANDARD_RATE = 25  # frames a second, for files that have no timestamps
PROMISE = 0.9  # of the frames in the header; AVI counts dropped frames too
LENGTH = 0.8  # of the duration in the header, which may be that of the sound


class VideoError(FinetuneError):
    """A file that no frame can be read from; the text says why, without the file's name."""


@dataclass(frozen=True)
class Frame:
    """A decoded frame, not yet converted. `time` is in seconds from the first frame; sizes are those on the screen."""

    raw: VideoFrame
    time: float
    width: int
    height: int
    turns: int  # quarter turns counter-clockwise from the stored picture to the upright one

    def rgb(self, longest: int | None = None) -> np.ndarray:
        """(H, W, 3) uint8 RGB, scaled down where the longer side has more than `longest` pixels."""
        shrink = max(1.0, max(self.width, self.height) / longest) if longest else 1.0
        return self._pixels("rgb24", max(1, round(self.width / shrink)), max(1, round(self.height / shrink)))

    def thumbnail(self) -> np.ndarray:
        """(18, 32) uint8, grey: enough to tell a cut from a movement."""
        return self._pixels("gray", 32, 18)

    def _pixels(self, layout: str, width: int, height: int) -> np.ndarray:
        stored = (height, width) if self.turns % 2 else (width, height)
        picture = self.raw.reformat(width=stored[0], height=stored[1], format=layout).to_ndarray()
        return np.ascontiguousarray(np.rot90(picture, self.turns))


def require_av() -> ModuleType:
    try:
        import av
    except ImportError as error:
        raise FinetuneError(f"videos are decoded by PyAV, which cannot be imported ({error}): {to_install('video')}") from error
    return av


def frames(
    path: str | os.PathLike[str], damage: list[str], *, fps: float | None = None, max_seconds: float | None = None
) -> Iterator[Frame]:
    """The frames of the file's first video stream; `fps` leaves frames out and never repeats one.

    The display matrix (rotation) and the pixels' aspect ratio are applied. Frames of another size than the first are scaled
    to it. What cannot be decoded inside the file is left out and described in `damage`. Raises VideoError where the file
    has no video at all, or not one frame of it can be decoded.
    """
    require_av()
    import av

    count, kept, errors = 0, 0, 0
    first: Frame | None = None
    time = shift = 0.0
    if not Path(path).stat().st_size:
        raise VideoError("the file is empty")
    try:
        # By a file object, so that a name with a colon is no protocol and any bytes may stand in it.
        # Tags that are not UTF-8 are Latin-1 or worse, and nobody reads them.
        with Path(path).open("rb") as file, av.open(file, "r", options=CLOSED, metadata_errors="replace") as source:
            stream = video_stream(source)
            stream.codec_context.options = {"max_pixels": str(LARGEST)}
            stream.codec_context.thread_count = 1
            promised, length = stream.frames, seconds(stream, source)
            rate = float(stream.average_rate or 0) or STANDARD_RATE
            for raw, flaw in decoded(source, stream, damage):
                errors += flaw
                if raw is None:
                    continue
                earlier, time = time, (count / rate if raw.time is None else raw.time) + shift
                if first is None:
                    first = upright(raw, stream)
                    shift = -time
                    time = 0.0
                elif time <= earlier:  # two recordings behind each other
                    shift += earlier + 1 / rate - time
                    time = earlier + 1 / rate
                count += 1
                if max_seconds is not None and time >= max_seconds:
                    promised = length = 0
                    break
                # A thousandth of a step: times are rounded to the container's clock.
                if fps is not None and time * fps < kept - 1e-3:
                    continue
                kept = kept + 1 if fps is None else int(time * fps + 1e-3) + 1
                yield Frame(raw, time, first.width, first.height, first.turns)
    except av.error.FFmpegError as error:
        raise VideoError(f"{error.strerror or type(error).__name__}: not a video that FFmpeg can read, or cut short") from error
    if not count:
        raise VideoError("no frame can be decoded; the file may be cut short")
    if errors:
        damage.append(f"{counted(errors, 'frame')} damaged or missing")
    if count < PROMISE * promised - 1:
        damage.append(f"{count} frames where the header promises {promised}: the file may be cut short")
    elif time + 1 / rate < LENGTH * length - 0.1:
        damage.append(f"{time + 1 / rate:.1f} s where the header promises {length:.1f} s: the file may be cut short")


def seconds(stream: VideoStream, source: InputContainer) -> float:
    """The length in the header, 0 where there is none."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return (source.duration or 0) / 1e6  # in FFmpeg's AV_TIME_BASE


def video_stream(source: InputContainer) -> VideoStream:
    """The first stream of moving pictures; the cover of a song is none."""
    from av.stream import Disposition

    cover = Disposition.attached_pic
    streams = [stream for stream in source.streams.video if not stream.disposition & cover]
    if not streams:
        kinds = sorted({stream.type for stream in source.streams})
        raise VideoError(f"no video stream ({', '.join(kinds) or 'no stream at all'})")
    if streams[0].codec_context is None:
        raise VideoError("a codec that this FFmpeg doesn't know")
    return streams[0]


def decoded(source: InputContainer, stream: VideoStream, damage: list[str]) -> Iterator[tuple[VideoFrame | None, bool]]:
    """(frame, whether it is damaged) as they come; the frame is None for a packet that cannot be decoded."""
    import av

    packets = source.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.error.FFmpegError as error:
            damage.append(f"reading ends with an error ({error.strerror})")
            packet = None
        try:
            # At the end the decoder hands out what it still holds.
            pictures = stream.codec_context.decode(None) if packet is None else packet.decode()
        except av.error.EOFError:
            return
        except av.error.FFmpegError:
            yield None, True
            pictures = []
        for picture in pictures:
            yield picture, picture.is_corrupt
        if packet is None or (packet.size == 0 and packet.dts is None):
            return


def upright(raw: VideoFrame, stream: VideoStream) -> Frame:
    """The first frame, which decides the size of all."""
    if raw.width * raw.height > LARGEST:
        raise VideoError(f"frames of {raw.width}×{raw.height} pixels, more than {LARGEST:,}: refused")
    aspect = float(stream.sample_aspect_ratio or 1)
    # A side grows, as players do it; what lies beyond 4:1 is a mistake in the header.
    width = round(raw.width * aspect) if 1 < aspect <= 4 else raw.width
    height = round(raw.height / aspect) if 0.25 <= aspect < 1 else raw.height
    turns = round(raw.rotation / 90) % 4
    return Frame(raw, 0.0, *((height, width) if turns % 2 else (width, height)), turns)
