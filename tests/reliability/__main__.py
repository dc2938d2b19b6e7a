"""The experiments; see the package's docstring."""

from __future__ import annotations

import argparse
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.reliability.bench import ROOT, STEPS, Bench

PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- written by python -m tests.reliability --write -->", "<!-- end -->"


@dataclass
class Row:
    """A line of the table; `held` is False where the promise was broken."""

    promise: str
    experiment: str
    figure: str
    held: bool


def _unless(held: bool) -> str:
    """What stands before a word that is true only where a promise held."""
    return "" if held else "NOT "


def kills(bench: Bench, times: int) -> Row:
    """kill -9 at a random moment, --resume, and so on until the run is done."""
    good, number, draw = 0, 0, random.Random(1)
    for turn in range(times):
        out, resume = f"killed{turn}", []
        while True:
            process = bench.start_until(out, bench.steps(out) + draw.randrange(1, 7), *resume)
            if process.poll() is not None:
                break
            time.sleep(draw.random() * 0.2)
            process.kill()
            process.communicate()
            number, resume = number + 1, ["--resume"]
        process.communicate()
        good += process.returncode == 0 and bench.equal("whole", out)
    return Row(
        "a killed run goes on as if nothing had happened",
        f"kill -9 at random moments and `--resume`, {number} kills in {times} runs of {STEPS} steps",
        f"{good} of {times} runs equal the undisturbed one bit for bit",
        good == times,
    )


def signals(bench: Bench, times: int) -> Row:
    """TERM, USR1 and INT, on one rank and two: saved at the step it stopped at, the documented code, exact going on."""
    wanted = {signal.SIGTERM: 143, signal.SIGUSR1: 138, signal.SIGINT: 130}
    good, tries, lost, slowest = 0, 0, 0, 0.0
    for turn in range(max(1, times // 6)):
        for number, code in wanted.items():
            for ranks in (1, 2):
                tries += 1
                out, words = f"signal{turn}-{number.name}-{ranks}", ["--num-gpus", ranks]
                process = bench.start_until(out, 4, *words)
                process.send_signal(number)
                sent = time.monotonic()
                process.communicate(timeout=120)
                slowest = max(slowest, time.monotonic() - sent)
                lost += bench.steps(out) - _saved_step(bench.folder / out)
                ended, _ = bench.run(out, *words, "--resume")
                same = bench.equal("whole" if ranks == 1 else "whole2", out)
                good += process.returncode == code and ended == 0 and same
    return Row(
        "a signal ends a run at a step that all ranks agree on, saved",
        f"TERM, USR1, INT to runs of 1 and 2 ranks, then `--resume`: {tries} stops",
        f"{good} of {tries} with the documented code and equal to the undisturbed run; {lost} steps lost; "
        f"slowest {slowest:.1f} s from signal to end",
        good == tries and lost == 0,
    )


def _saved_step(folder: Path) -> int:
    """The step of the checkpoint that --resume would take."""
    import torch

    name = (folder / "last_checkpoint").read_text(encoding="utf-8").strip()
    return int(torch.load(folder / name, weights_only=True)["training"]["iteration"])


def ranks(bench: Bench, times: int) -> Row:
    """One of two ranks dies: the other ends as well, with one sentence; going on is exact."""
    good, slowest, turns = 0, 0.0, max(1, times // 5)
    for turn in range(turns):
        out = f"rank{turn}"
        process = bench.start_until(out, 5, "--num-gpus", 2)
        children = subprocess.run(["pgrep", "-P", str(process.pid), "-f", "spawn_main"], capture_output=True, text=True)
        os.kill(int(children.stdout.split()[-1]), signal.SIGKILL)
        killed = time.monotonic()
        said, _ = process.communicate(timeout=120)
        slowest = max(slowest, time.monotonic() - killed)
        ended, _ = bench.run(out, "--num-gpus", 2, "--resume")
        told = "was killed by SIGKILL" in said
        good += told and process.returncode != 0 and ended == 0 and bench.equal("whole2", out)
    return Row(
        "a rank that dies ends all of them, with one sentence",
        f"kill -9 of one of two ranks, then `--resume`, {turns} time(s)",
        f"{good} of {turns} said which rank and how, and went on exactly; slowest end after {slowest:.1f} s",
        good == turns,
    )


def disk(bench: Bench, times: int) -> Row:
    """The disk of OUTPUT_DIR is full in mid-run: a message, the earlier checkpoint whole, exact going on elsewhere."""
    out, place = bench.folder / "full", bench.folder / "small_disk"
    for folder in (out, place):
        folder.mkdir()
    # 1.5 checkpoints fit; what the run left is copied out before the disk goes away with its namespace
    size = int(1.6 * (bench.folder / "whole" / f"model_{STEPS:07d}.pth").stat().st_size) >> 10
    before = f"mount -t tmpfs -o size={size}k none {place}; trap 'cp -a {place}/. {out}' EXIT"
    command = ["unshare", "--mount", "sh", "-c", f'{before}; "$@"', "sh", *bench.command("small_disk")]
    done = subprocess.run(command, cwd=bench.folder, env=bench.env, capture_output=True, text=True, timeout=300)
    said = done.stdout + done.stderr
    told = "No space left on device" in said and "make room" in said and "Traceback" not in said
    ended, _ = bench.run("full", "--resume")
    same = ended == 0 and bench.equal("whole", "full")
    return Row(
        "a full disk costs no checkpoint",
        f"OUTPUT_DIR on a file system of {size} kB, full at the second checkpoint; then `--resume` where there is room",
        f"exit code {done.returncode}; file and remedy {_unless(told)}said; "
        f"{_unless(same)}equal to the undisturbed run",
        done.returncode != 0 and told and same,
    )


def bucket(bench: Bench, times: int) -> Row:
    """OUTPUT_DIR on an S3 server that is away for some seconds in mid-run: the training does not wait for it."""
    from tests.bucket_server import KEYS, cable_to, make_bucket, s3_server

    with s3_server() as endpoint, cable_to(endpoint) as cable:
        made = make_bucket(endpoint, "runs")
        bench.env |= {**KEYS, "AWS_ENDPOINT_URL": cable.endpoint}
        words = ["OUTPUT_DIR", "s3://runs/run"]
        process = subprocess.Popen(
            [*bench.command("unused"), *words], cwd=bench.folder, env=bench.env, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        local = bench.folder / "cache" / "runs"
        log = _until(lambda: next(local.glob("*/run/log.txt"), None))
        _until(lambda: "iter 4/" in log.read_text(encoding="utf-8"))
        cable.cut()
        cut = time.monotonic()
        _until(lambda: "takes nothing at the moment" in log.read_text(encoding="utf-8") or process.poll() is not None)
        away = time.monotonic() - cut
        cable.mend()
        process.communicate(timeout=200)
        out = bench.folder / "bucket"
        for entry in made.client.list_objects_v2(Bucket="runs", Prefix="run/")["Contents"]:
            path = out / entry["Key"].removeprefix("run/")
            path.parent.mkdir(parents=True, exist_ok=True)
            made.client.download_file("runs", entry["Key"], str(path))
    same = process.returncode == 0 and bench.equal("whole", "bucket")
    return Row(
        "a bucket that is down costs no step",
        "OUTPUT_DIR on an S3 server, whose connections are cut in mid-run and come back",
        f"exit code {process.returncode}; cut off for {away:.0f} s, in which the training went on; what the bucket has "
        f"is {_unless(same)}equal to the undisturbed run",
        same,
    )


def stall(bench: Bench, times: int) -> Row:
    """How long a step waits for a checkpoint as large as Faster R-CNN's with ResNet-50, written by a thread or not."""
    import torch

    from detframe.engine.checkpoint import Checkpointer

    model = {f"w{i}": torch.zeros(1_000_000) for i in range(41)}
    state = {"iteration": 1, "max_iter": 2, "finished": False, "stop_reason": "", "scaler": {}, "rng": [], "hooks": {}}
    state["optimizer"] = {"state": {i: {"momentum_buffer": value} for i, value in enumerate(model.values())}}
    seconds = {}
    for background in (False, True):
        checkpointer = Checkpointer(bench.folder, {"config": "", "class_names": []}, 1, background)
        found = []
        for iteration in range(3):
            begun = time.perf_counter()
            checkpointer.save(f"model_{iteration:07d}.pth", model, {**state, "iteration": iteration}, {})
            found.append(time.perf_counter() - begun)
            checkpointer.wait()
        checkpointer.close()
        seconds[background] = sorted(found)[1]
    return Row(
        "steps go on while a checkpoint is written",
        "the wait of a step for a checkpoint of 328 MB, median of three, with `SOLVER.CHECKPOINT_ASYNC` and without",
        f"{seconds[True]:.2f} s with, {seconds[False]:.2f} s without; 328 MB of memory until it is written",
        seconds[True] < seconds[False],
    )


def _until(found: Callable[[], Any], seconds: float = 120.0) -> Any:
    """What a function gives, when it is something."""
    deadline = time.monotonic() + seconds
    while not (value := found()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return value


def shm(bench: Bench, times: int) -> Row:
    """A shared memory too small for a batch: another way is taken, with the same outcome."""
    start = time.monotonic()
    code, said = bench.run("shm", before="mount -t tmpfs -o size=64k none /dev/shm")
    same = code == 0 and bench.equal("whole", "shm")
    return Row(
        "a small /dev/shm is enough",
        "/dev/shm of 64 kB, one worker; a batch takes up to 77 kB",
        f"exit code {code} after {time.monotonic() - start:.0f} s; {_unless(same)}equal to the undisturbed run",
        same and "Traceback" not in said,
    )


def damage(bench: Bench, times: int) -> Row:
    """The newest checkpoint is damaged: named, and the run goes on from the one before."""
    good, kinds = 0, ("truncated", "one byte changed", "empty", "text")
    for kind in kinds:
        out = bench.folder / f"damaged-{kind.replace(' ', '-')}"
        process = bench.start_until(out.name, 8)
        process.kill()
        process.communicate()
        newest = out / (out / "last_checkpoint").read_text(encoding="utf-8").strip()
        content = bytearray(newest.read_bytes())
        content[len(content) // 2] ^= 1
        new = {"truncated": content[:-100], "one byte changed": content, "empty": b"", "text": b"<html>"}[kind]
        newest.write_bytes(bytes(new))
        code, said = bench.run(out.name, "--resume")
        good += code == 0 and newest.name in said and bench.equal("whole", out.name)
    return Row(
        "a damaged checkpoint is noticed, named and passed over",
        f"the newest one {', '.join(kinds)}; then `--resume`",
        f"{good} of {len(kinds)} named it and ended equal to the undisturbed run",
        good == len(kinds),
    )


def lock(bench: Bench, times: int) -> Row:
    """A second run in the same OUTPUT_DIR is refused, and the first one does not notice."""
    process = bench.start_until("shared", 2)
    process.send_signal(signal.SIGSTOP)  # it must still be there when the second one has started
    code, said = bench.run("shared")
    process.send_signal(signal.SIGCONT)
    process.communicate()
    told = str(process.pid) in said and "Traceback" not in said
    good = code == 2 and told and process.returncode == 0 and bench.equal("whole", "shared")
    return Row(
        "one run per OUTPUT_DIR",
        "a second run started into the folder of a first one",
        f"exit code {code}; the process that holds it was {_unless(told)}named; "
        f"the first run {'equals' if good else 'does NOT equal'} the undisturbed one",
        good,
    )


def evaluation(bench: Bench, times: int) -> Row:
    """A validation image that cannot be read, met only after the last step."""
    image = sorted((bench.folder / "data" / "shapes" / "val").iterdir())[-1]
    kept = image.read_bytes()
    image.write_bytes(kept[: len(kept) // 2])
    code, said = bench.run("evaluation", "TEST.EVAL_PERIOD", 0)
    image.write_bytes(kept)
    saved = (bench.folder / "evaluation" / "model_final.pth").is_file()
    told = image.name in said and "Traceback" not in said
    resumed, _ = bench.run("evaluation", "TEST.EVAL_PERIOD", 0, "--resume")
    return Row(
        "a failed evaluation loses no training",
        "a truncated validation image, met after the last step; mended, then `--resume`",
        f"exit code {code}; the final weights {'are' if saved else 'are NOT'} there; the image was "
        f"{_unless(told)}named; then exit code {resumed}",
        code == 2 and saved and told and resumed == 0,
    )


def start(bench: Bench, times: int) -> Row:
    """Commands that fail at their start leave the folder of an earlier run as it is."""
    before = _listing(bench.folder / "whole")
    mistakes = (
        ["DATASETS.TRAIN", "shapes_trian"],
        ["MODEL.WEIGHTS", "nowhere.pth"],
        ["MODEL.BACKBONE.CONV_BODY", "R-19-FPN"],
        ["SOLVER.IMS_PER_BATCH", 10**6],
        ["MODEL.NUM_CLASSES", 3],
        ["DATASETS.CATALOG", "nowhere.yaml"],
    )
    codes = [bench.run("whole", *words)[0] for words in mistakes]
    same = _listing(bench.folder / "whole") == before
    good = same and all(code == 2 for code in codes)
    return Row(
        "a start that fails changes nothing on disk",
        f"{len(mistakes)} commands with a mistake, into the folder of a finished run",
        f"{codes.count(2)} of {len(mistakes)} were refused; the folder is {'as it was' if same else 'NOT as it was'}",
        good,
    )


def _listing(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()}


EXPERIMENTS: dict[str, Callable[[Bench, int], Row]] = {
    run.__name__: run for run in (kills, signals, ranks, disk, bucket, stall, shm, damage, lock, evaluation, start)
}


REPEATED = (kills, signals, ranks)  # --times says how often


def table(rows: dict[str, Row], times: int) -> str:
    """The rows as Markdown."""
    repeated = {run.__name__: f" --times {times}" for run in REPEATED}
    lines = ["| promise | experiment | command | figure |", "|---|---|---|---|"]
    lines += [
        f"| {row.promise} | {row.experiment} | `python -m tests.reliability {name}` | {row.figure} |"
        for name, row in ((name + repeated.get(name, ""), row) for name, row in rows.items())
    ]
    return "\n".join(lines)


def main() -> int:
    """Run what is asked for; exit code 1 where a promise did not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability")
    parser.add_argument("names", nargs="*", metavar="EXPERIMENT", help=f"of {', '.join(EXPERIMENTS)}; none: all")
    parser.add_argument("--times", type=int, default=20, help="runs that are killed (20)")
    parser.add_argument("--write", action="store_true", help="put the table into docs/reliability.md")
    args = parser.parse_args()
    unknown = set(args.names) - set(EXPERIMENTS)
    if unknown:
        parser.error(f"no experiment is called {', '.join(sorted(unknown))}")
    rows = {}
    with tempfile.TemporaryDirectory(prefix="reliability-") as folder:
        bench = Bench(Path(folder))
        undisturbed = (("whole", []), ("whole2", ["--num-gpus", 2])) if args.names != ["stall"] else ()
        for out, words in undisturbed:
            code, said = bench.run(out, *words)
            if code:
                sys.stderr.write(said)
                return 1
        for name in args.names or EXPERIMENTS:
            rows[name] = EXPERIMENTS[name](bench, args.times)
            sys.stderr.write(f"{name}: {'held' if rows[name].held else 'BROKEN'}: {rows[name].figure}\n")
    sys.stdout.write(table(rows, args.times) + "\n")
    if args.write:
        text = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(
            re.sub(f"{BEGIN}.*?{END}", f"{BEGIN}\n{table(rows, args.times)}\n{END}", text, flags=re.S), encoding="utf-8"
        )
    return 0 if all(row.held for row in rows.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
