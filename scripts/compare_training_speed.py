"""Training and inference speed of CoPriv on a CPU beside PyTorch's, in one run.

    python scripts/compare_training_speed.py --copriv target/release/copriv [--install] [--width 1.0] [--batch 128]
        [--threads 2] [--steps 8] [--rounds 3] [--preload LIBRARY] [--work FOLDER]

trains MobileNetV2 for 32x32 images and 100 classes with SGD for a few steps by turns in both, so that whatever else the
machine does meets both alike, and prints images a second of each round, the medians and their ratios. CoPriv
reads, varies and prefetches images of the sample of CIFAR-100 that comes with the repository; PyTorch is given one batch that
is ready in memory. PyTorch runs in several settings, each in every round: as it comes, with tensors channels-last, and both
of these where the allocator keeps what is freed (glibc told so, or an allocator to load first such as libjemalloc.so.2).
Needs torch: with --install it is put into a virtual environment in the --work folder.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from own_environment import in_own_environment

REPOSITORY = Path(__file__).resolve().parent.parent
CONFIG = """
batch_size = {batch}
log_every = 1
[network]
name = "mobilenet_v2"
width = {width}
[data]
name = "cifar100_sample"
train_limit = {train}
test_limit = {test}
[pretrain]
epochs = 1
learning_rate = 0.01
"""


def main():
    args = arguments()
    work = Path(args.work or tempfile.mkdtemp())
    work.mkdir(parents=True, exist_ok=True)
    if args.install:
        return in_own_environment(work, ["torch", "numpy"])
    if args.torch_round:
        print(json.dumps(pytorch(args)))
        return 0
    rounds = []
    for number in range(args.rounds):
        speeds = {"CoPriv": copriv(args, work / f"round{number}")}
        for name in settings(args):
            speeds[name] = pytorch_process(args, name)
        rounds.append(speeds)
        for what in ("train", "inference"):
            found = ", ".join(f"{name} {speed[what]:.1f}" for name, speed in speeds.items())
            print(f"round {number + 1}, {what}, images/s: {found}", flush=True)
    for what in ("train", "inference"):
        ours = statistics.median(speeds["CoPriv"][what] for speeds in rounds)
        print(f"median, {what:>9}: CoPriv {ours:.1f} images/s")
        for name in settings(args):
            theirs = statistics.median(speeds[name][what] for speeds in rounds)
            ratios = sorted(speeds["CoPriv"][what] / speeds[name][what] for speeds in rounds)
            print(f"    {name:<46} {theirs:7.1f} images/s, ratio {statistics.median(ratios):.2f} "
                  f"({ratios[0]:.2f} to {ratios[-1]:.2f})")
    return 0


KEPT = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=2147483647:glibc.malloc.top_pad=268435456"


def settings(args):
    """Each setting of PyTorch by name: whether tensors are channels-last, and the environment."""
    allocators = {"": {}, ", pages kept": {"GLIBC_TUNABLES": KEPT}}
    if args.preload:
        keeping = "dirty_decay_ms:-1,muzzy_decay_ms:-1"
        allocators[f", {Path(args.preload).name}"] = {"LD_PRELOAD": args.preload, "MALLOC_CONF": keeping}
    layouts = {"": False, ", channels-last": True}
    return {f"PyTorch{layout}{allocator}": (is_last, environment)
            for layout, is_last in layouts.items() for allocator, environment in allocators.items()}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--copriv", required=True)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--steps", type=int, default=8, help="steps a round; the first is not counted")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--preload", help="an allocator's library, loaded before PyTorch in some of the settings")
    parser.add_argument("--work")
    parser.add_argument("--install", action="store_true")
    parser.add_argument("--torch-round", help=argparse.SUPPRESS)
    return parser.parse_args()


def copriv(args, out):
    """A run of one epoch; speeds from its metrics."""
    out.mkdir(parents=True, exist_ok=True)
    config, test = out / "config.toml", 2 * args.batch
    config.write_text(CONFIG.format(batch=args.batch, width=args.width, train=args.steps * args.batch, test=test))
    run = out / f"run{time.time_ns()}"
    subprocess.run([args.copriv, "-q", "--threads", str(args.threads), "train", config,
                    "--data", REPOSITORY / "datasets", "--out", run], check=True)
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [args.batch / record["images_per_second"] for record in records if record["kind"] == "step"]
    epoch = next(record for record in records if record["kind"] == "epoch")
    measuring = epoch["seconds"] - sum(steps)
    return {"train": args.batch * (len(steps) - 1) / sum(steps[1:]), "inference": test / measuring}


def pytorch_process(args, name):
    """In a process of its own, so that its threads do not spin while CoPriv runs."""
    command = [sys.executable, __file__, *sys.argv[1:], "--torch-round", name]
    environment = os.environ | settings(args)[name][1]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment).stdout)


def pytorch(args):
    import torch
    from pytorch_networks import network

    torch.set_num_threads(args.threads)
    model = network("mobilenet_v2", args.width, 100, 32, "relu").train()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=1e-5)
    images, labels = torch.randn(args.batch, 3, 32, 32), torch.randint(0, 100, (args.batch,))
    if settings(args)[args.torch_round][0]:
        model, images = (it.to(memory_format=torch.channels_last) for it in (model, images))

    def step():
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels, label_smoothing=0.1).backward()
        optimiser.step()

    def speed(run, count):
        run()
        began = time.perf_counter()
        for _ in range(count):
            run()
        return count * args.batch / (time.perf_counter() - began)

    train = speed(step, args.steps - 1)
    model.eval()
    with torch.inference_mode():
        return {"train": train, "inference": speed(lambda: model(images), 2)}


if __name__ == "__main__":
    sys.exit(main())
