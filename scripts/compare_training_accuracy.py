"""Accuracy that training reaches in CoPriv beside PyTorch: the same initial weights, recipe and epochs.

    python scripts/compare_training_accuracy.py --copriv target/release/copriv --data CIFAR100_DIR [--install] [--width 0.5]
        [--epochs 5] [--seeds 2] [--train-limit N] [--test-limit N] [--batch 128] [--rate 0.1] [--threads 2] [--curve] [--work FOLDER]

trains MobileNetV2 for 32x32 images once for each seed in both, from the same weights drawn as torchvision does (SGD with
Nesterov momentum, half a cosine after one tenth of warm-up, label smoothing 0.1, weight decay of convolutions and the last
layer alone, crops and flips) and prints top-1 on the test images. The two vary images by different random numbers, so that
accuracies agree as those of two seeds do, no better. With --curve every step takes all of --train-limit images as they are, so
that both compute the very same thing: it prints the loss at each step and how far both are from PyTorch's in 64 bits. (A
network of this depth multiplies what rounding does.) Needs torch, numpy, safetensors and zstandard: with --install they are
put into a virtual environment in the --work folder.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from own_environment import in_own_environment

PACKAGES = ["torch", "numpy", "safetensors", "zstandard"]
MEAN, STD = [0.5071, 0.4865, 0.4409], [0.2673, 0.2564, 0.2762]
RECORD = 2 + 3 * 32 * 32
CONFIG = """
seed = {seed}
batch_size = {batch}
start = "{start}"
[data]
name = "cifar100"
train_limit = {train_limit}
test_limit = {test_limit}
augmentation = {{ crop_padding = {padding}, flip = {flip} }}
[optimiser]
momentum = 0.9
weight_decay = {decay}
label_smoothing = 0.1
[pretrain]
epochs = {epochs}
learning_rate = {rate}
warmup_epochs = {warmup}
"""


def main():
    args = arguments()
    work = Path(args.work or tempfile.mkdtemp())
    work.mkdir(parents=True, exist_ok=True)
    if args.install:
        return in_own_environment(work, PACKAGES)
    pairs = []
    for seed in range(1, args.seeds + 1):
        start, weights = (work / f"{name}{seed}.safetensors" for name in ("start", "weights"))
        initialise(args, seed, weights)
        call(args, "import", weights, "--network", "mobilenet_v2", "--width", args.width, "--classes", 100,
             "--resolution", 32, "--dataset", "cifar100", "--out", start)
        losses, ours = copriv(args, seed, start, work / f"run{seed}")
        their_losses, theirs = pytorch(args, seed, weights, "float32")
        if args.curve:
            exact_losses, _ = pytorch(args, seed, weights, "float64")
            for step, (a, b, exact) in enumerate(zip(losses, their_losses, exact_losses), 1):
                print(f"step {step:3}: loss {exact:.6f} in 64 bits, CoPriv {a - exact:+.1e}, PyTorch in 32 bits {b - exact:+.1e}")
        pairs.append((ours, theirs))
        print(f"seed {seed}: CoPriv {ours:6.2%}, PyTorch {theirs:6.2%}", flush=True)
    ours, theirs = (statistics.mean(pair[side] for pair in pairs) for side in (0, 1))
    print(f"mean:   CoPriv {ours:6.2%}, PyTorch {theirs:6.2%}, difference {100 * (ours - theirs):+.2f} points")
    return 0


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--copriv", required=True)
    parser.add_argument("--data", required=True, help="folder of train.bin and test.bin, plain or as .zst")
    parser.add_argument("--width", type=float, default=0.5)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--train-limit", type=int, default=50_000)
    parser.add_argument("--test-limit", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rate", type=float, default=0.1)
    parser.add_argument("--decay", type=float, default=5e-4)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--curve", action="store_true")
    parser.add_argument("--work")
    parser.add_argument("--install", action="store_true")
    args = parser.parse_args()
    args.batch = args.train_limit if args.curve else args.batch
    return args


def call(args, *words):
    subprocess.run([args.copriv, "-q", "--threads", str(args.threads), *map(str, words)], check=True)


def initialise(args, seed, path):
    """Weights as torchvision draws them."""
    import torch
    from pytorch_networks import network
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    model = network("mobilenet_v2", args.width, 100, 32, "relu")
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight, mode="fan_out")
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight, 0, 0.01)
            torch.nn.init.zeros_(module.bias)
    save_file(model.state_dict(), path)


def copriv(args, seed, start, out):
    """The loss of each epoch, and top-1 in the end."""
    config = out.with_suffix(".toml")
    variation = {"padding": 0, "flip": "false"} if args.curve else {"padding": 4, "flip": "true"}
    config.write_text(CONFIG.format(**vars(args), **variation, seed=seed, start=start, warmup=args.epochs / 10))
    call(args, "train", config, "--data", args.data, "--out", out)
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    epochs = [record for record in records if record["kind"] == "epoch"]
    return [epoch["loss"] for epoch in epochs], epochs[-1]["top1"]


def images(folder, split, limit):
    """Pixels `[n, 3, 32, 32]` and fine labels `[n]`."""
    import numpy
    import zstandard

    plain = Path(folder) / f"{split}.bin"
    if plain.exists():
        content = plain.read_bytes()
    else:
        with open(f"{plain}.zst", "rb") as compressed:
            content = zstandard.ZstdDecompressor().stream_reader(compressed).read()
    records = numpy.frombuffer(content, numpy.uint8).reshape(-1, RECORD)[:limit]
    return records[:, 2:].reshape(-1, 3, 32, 32).copy(), records[:, 1].astype("int64")


def pytorch(args, seed, weights, precision):
    """As `copriv`."""
    import torch
    from pytorch_networks import network
    from safetensors.torch import load_file

    torch.manual_seed(seed)
    torch.set_num_threads(args.threads)
    model = network("mobilenet_v2", args.width, 100, 32, "relu")
    model.load_state_dict(load_file(weights))
    model.classifier[0].p = 0.0
    dtype = getattr(torch, precision)
    model = model.to(dtype=dtype, memory_format=torch.channels_last).train()
    decayed = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": args.decay}, {"params": others, "weight_decay": 0.0}]
    optimiser = torch.optim.SGD(groups, lr=args.rate, momentum=0.9, nesterov=True)
    (pixels, labels), test = (images(args.data, split, limit) for split, limit in
                              (("train", args.train_limit), ("test", args.test_limit)))
    pixels, labels = torch.from_numpy(pixels), torch.from_numpy(labels)
    steps, step = len(labels) // args.batch, 0
    total, warmup = args.epochs * steps, args.epochs / 10 * steps
    losses = []
    for _ in range(args.epochs):
        order, sum_of_losses = torch.randperm(len(labels)), 0.0
        for batch in order[: steps * args.batch].split(args.batch):
            done = (step - warmup) / (total - warmup)
            rate = (step + 1) / warmup if step + 1 <= warmup else (1 + math.cos(math.pi * done)) / 2
            for group in optimiser.param_groups:
                group["lr"] = args.rate * rate
            optimiser.zero_grad()
            logits = model(normalised(pixels[batch] if args.curve else varied(pixels[batch])).to(dtype))
            loss = torch.nn.functional.cross_entropy(logits, labels[batch], label_smoothing=0.1)
            loss.backward()
            optimiser.step()
            step += 1
            sum_of_losses += loss.item()
        losses.append(sum_of_losses / steps)
    return losses, accuracy(model.float().eval(), *map(torch.from_numpy, test))


def varied(pixels):
    """Each image cut from a border of four black pixels, half of them mirrored."""
    import torch

    padded = torch.nn.functional.pad(pixels, (4, 4, 4, 4))
    rows, columns = torch.randint(0, 9, (2, len(pixels))).tolist()
    cut = torch.stack([image[:, y:y + 32, x:x + 32] for image, y, x in zip(padded, rows, columns)])
    mirrored = torch.rand(len(pixels)) < 0.5
    cut[mirrored] = cut[mirrored].flip(3)
    return cut


def normalised(pixels):
    import torch

    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    return ((pixels.float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)


def accuracy(model, pixels, labels):
    import torch

    with torch.inference_mode():
        right = sum(int((model(normalised(part)).argmax(1) == answer).sum())
                    for part, answer in zip(pixels.split(250), labels.split(250)))
    return right / len(labels)


if __name__ == "__main__":
    sys.exit(main())
