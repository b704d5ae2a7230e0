"""Run by test_training.py under torchrun: trains as many_steps() does and writes what came out.

torchrun --nproc-per-node 2 two_processes.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

from test_training import trained

from finetune.command import leave_group

if __name__ == "__main__":
    trained(Path(sys.argv[1]))
    leave_group()
