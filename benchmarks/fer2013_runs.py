"""All full runs of FER2013, one after the other, and the FER2013 section of RESULTS.md.

    python benchmarks/fer2013_runs.py --list
    python benchmarks/fer2013_runs.py --data fer2013.csv --out runs --smoke            does every line run? (a minute each on a CPU)
    python benchmarks/fer2013_runs.py --data fer2013.csv --out runs --write RESULTS.md
    python benchmarks/fer2013_runs.py --out runs --write RESULTS.md                    runs nothing, fills the tables
    python benchmarks/fer2013_runs.py --record some/run --write RESULTS.md             takes in a run that was made by hand

Each run is a process of its own with a folder and a log in --out. A finished one is skipped, an interrupted one continued: give the same
command again. SIGTERM or Ctrl-C makes the run under way save its state. Runs on the CPU start only when named with --only. On several
GPUs: --launch 'torchrun --nproc-per-node 8'.

A line of the tables (fer2013_plan.py) is filled by a run on all of FER2013 with its settings; lines without a run are named in one
sentence. What is found is kept in fer2013_results.json beside this file, so rows from several machines come together. Exit status: 0, 1
where a run or a table could not be made, 2 for a command line that is none, 143 after a signal.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.fer2013_plan import RUNS, FullRun, differences, words_of  # noqa: E402
from benchmarks.fer2013_tables import collect, lines_of, read_record, write_tables  # noqa: E402
from finetune.errors import FinetuneError  # noqa: E402
from zoo import disk  # noqa: E402

RESULTS = Path(__file__).with_name("fer2013_results.json")


class Child:
    """The run under way, and whether a signal has come. A second signal kills it."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.stopped = False

    def signalled(self, number: int, frame: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL if self.stopped else signal.SIGTERM)
        self.stopped = True

    def run(self, command: Sequence[str], log: Path) -> int:
        """The exit status; the output goes to the end of `log`. In a session of its own, so that Ctrl-C reaches it once, through us."""
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        with log.open("ab") as stream:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True, cwd=ROOT,
                env={**os.environ, "PYTHONPATH": path},
            )  # fmt: skip
            if self.stopped:  # the signal came before the process
                self.process.terminate()
            return self.process.wait()


def make(runs: Iterable[FullRun], data: Path, out: Path, launch: Sequence[str], smoke: bool) -> int:
    """Makes the runs that are not finished; a line for each, and the total time. Returns an exit status."""
    out.mkdir(parents=True, exist_ok=True)
    started, child, failed, seconds = time.monotonic(), Child(), 0, 0.0
    before = {number: signal.signal(number, child.signalled) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        for run in runs:
            folder, log, words = out / run.name, out / f"{run.name}.log", words_of(run, smoke)
            finished = (folder / "result.json").is_file() and not differences(folder, words)
            at, status = (log.stat().st_size if log.is_file() else 0), 0
            if not finished:
                places = ["--data", str(data.resolve()), "--out", str(folder.resolve())]
                command = [*launch, "-m", "finetune.fer2013", *words, *places, "--resume"]
                status = child.run(command, log)
            if status == 0:
                result = json.loads((folder / "result.json").read_bytes())
                seconds += result["seconds"]
                print(f"{run.name:<28} {accuracies(result)}  {result['seconds']:>8,.0f} s{'  (finished before)' * finished}", flush=True)
            elif child.stopped:
                print(f"{run.name:<28} stopped; the same command continues it", flush=True)
            else:
                failed += 1
                print(f"{run.name:<28} not run: {reason(log, at, status)}", flush=True)
            if child.stopped:
                break
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    print(f"\ntotal: {seconds:,.0f} s of training and measuring in the finished runs, {time.monotonic() - started:,.0f} s in this call")
    return 143 if child.stopped else int(failed > 0)


def accuracies(result: Mapping[str, Any]) -> str:
    """What a run is known by, for the terminal."""
    split = result["report"]
    labels = [split, f"{split}, ten-crop"]
    return "  ".join(f"{label} {result['scores'][label]['accuracy']:.2%}" for label in labels)


def reason(log: Path, at: int, status: int) -> str:
    """The error in what was added to the log, in one line."""
    text = log.read_bytes()[at:].decode(errors="replace")
    found = text.rpartition("error: ")[2] if "error: " in text else (text.strip().splitlines() or [""])[-1]
    return f"{' '.join(found.split())[:400]} (status {status}, {log})"


# --- the command ----------------------------------------------------------------------------------------------------------------------


def listed(out: Path | None, record: Mapping[str, Any]) -> str:
    lines = []
    for run in RUNS:
        state = "recorded" if run.name in record["runs"] else "not run"
        if out is not None and (out / run.name).is_dir():
            state = "finished" if (out / run.name / "result.json").is_file() else "begun"
        lines.append(f"{run.name:<28} {state:<9} {run.words}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", type=Path, help="FER2013; without it nothing is run")
    p.add_argument("--out", type=Path, help="holds a folder for each run; those of --smoke are in its folder smoke")
    p.add_argument("--only", nargs="+", metavar="NAME", choices=[run.name for run in RUNS], help="these runs (default: all but the CPU's)")
    p.add_argument("--smoke", action="store_true", help="each run for an epoch on a part of the data; writes no tables")
    p.add_argument("--launch", default=shlex.quote(sys.executable), help="what starts a run (default: this Python)")
    p.add_argument("--write", type=Path, metavar="RESULTS.md", help="fills the tables of this file")
    p.add_argument("--record", type=Path, nargs="+", default=[], metavar="RUN", help="takes in these run folders, told by their settings")
    p.add_argument("--results", type=Path, default=RESULTS, help="what was found so far (default: fer2013_results.json beside this file)")
    p.add_argument("--list", action="store_true", help="prints the runs and leaves")
    options = p.parse_args(argv)
    if options.smoke and options.write:
        p.error("--smoke writes no tables: leave out --write")
    if (options.data and not options.out) or not (options.data or options.write or options.record or options.list):
        p.error("give --data and --out to run, --record to take in a run, --write to fill the tables, or --list")
    if options.data and not options.data.exists():
        p.error(f"--data {options.data}: no such file or folder")
    try:
        record = read_record(options.results)
        if options.list:
            print(listed(options.out, record))
            return 0
        status = 0
        if options.data:
            runs = [run for run in RUNS if (run.name in options.only if options.only else options.smoke or not run.cpu)]
            out = options.out / "smoke" if options.smoke else options.out
            status = make(runs, options.data, out, shlex.split(options.launch), options.smoke)
        if (options.write and options.out) or options.record:
            folders = {run.name: options.out / run.name for run in RUNS} if options.write and options.out else {}
            record, notes = collect(folders | lines_of(options.record), record)
            for note in notes:
                print(f"fills no cell: {note}")
            disk.write_json(options.results, record)
        if options.write:
            write_tables(options.write, record)
            print(f"{options.write}: {sum(run.name in record['runs'] for run in RUNS)} of {len(RUNS)} lines have been run")
    except (FinetuneError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return status


if __name__ == "__main__":
    sys.exit(main())
