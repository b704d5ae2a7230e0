"""The command python -m finetune.prepare_video: raw clips become folders of aligned faces."""

from __future__ import annotations

import sys

from finetune.video.prepare import main

if __name__ == "__main__":
    sys.exit(main())
