"""Compares CoPriv's logits with PyTorch's, image by image, on the same preprocessed images.

    python scripts/compare_with_pytorch.py --copriv target/release/copriv --weights WEIGHTS.safetensors \
        --network mobilenet_v2 --activation relu6 --dataset imagenet --data FOLDER [--width W] [--limit N] \
        [--tolerance T] [--install] [--work FOLDER]

imports the weights, lets `copriv eval --dump` write what it feeds its network and what comes out, feeds the
same to PyTorch with the original weights, and compares: the largest logit must be the same for every image, and
no logit may differ by more than --tolerance. For image folders it also compares the preprocessing with
Pillow's. Needs torch, safetensors, numpy and pillow: with --install they are put into a virtual environment
in the --work folder.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from own_environment import in_own_environment

PACKAGES = ["torch", "safetensors", "numpy", "pillow"]
STATISTICS = {
    "imagenet": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225], 1000, 224),
    "cifar100": ([0.5071, 0.4865, 0.4409], [0.2673, 0.2564, 0.2762], 100, 32),
}


def main():
    args = arguments()
    work = Path(args.work or tempfile.mkdtemp())
    work.mkdir(parents=True, exist_ok=True)
    if args.install:
        return in_own_environment(work, PACKAGES, OMP_NUM_THREADS="1")
    dump = run_copriv(args, work)

    import torch
    from pytorch_networks import logits, network
    from safetensors.torch import load_file

    torch.set_num_threads(1)
    _, _, classes, resolution = STATISTICS[args.dataset]
    model = network(args.network, args.width, classes, resolution, args.activation)
    model.load_state_dict(load_file(args.weights))
    ours = load_file(dump)
    theirs = logits(model, ours["images"])
    same = (theirs.argmax(1) == ours["logits"].argmax(1)).sum().item()
    difference = (theirs - ours["logits"]).abs().max().item()
    count = len(theirs)
    accuracy = [(x.argmax(1) == ours["labels"]).float().mean().item() for x in (theirs, ours["logits"])]
    print(f"{count} images: top-1 {accuracy[0]:.4f} in PyTorch {torch.__version__}, {accuracy[1]:.4f} in CoPriv")
    print(f"same top-1 for {same} of {count} images; largest difference of a logit {difference:.2e}, "
          f"largest logit {theirs.abs().max().item():.1f}")
    if args.dataset == "imagenet":
        compare_preprocessing(args, ours["images"])
    return 0 if same == count and difference <= args.tolerance else 1


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--copriv", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--network", default="mobilenet_v2")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--activation", default="relu")
    parser.add_argument("--dataset", choices=STATISTICS, required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--tolerance", type=float, default=1e-3)
    parser.add_argument("--work")
    parser.add_argument("--install", action="store_true")
    return parser.parse_args()


def run_copriv(args, work):
    """Imports and evaluates; the path of what went in and came out."""
    _, _, classes, resolution = STATISTICS[args.dataset]
    checkpoint, dump = work / "checkpoint.safetensors", work / "dump.safetensors"
    size = ["--network", args.network, "--width", args.width, "--classes", classes, "--resolution", resolution]
    limit = [] if args.limit is None else ["--limit", args.limit]
    commands = [
        ["import", args.weights, *size, "--activation", args.activation, "--dataset", args.dataset, "--out", checkpoint],
        ["eval", checkpoint, "--dataset", args.dataset, "--data", args.data, "--dump", dump, *limit],
    ]
    for command in commands:
        subprocess.run([args.copriv, "-q", *map(str, command)], check=True)
    return dump


def compare_preprocessing(args, images):
    """Pillow's resize to 256 and centre crop to 224, as torchvision does them, against ours."""
    import numpy as np
    from PIL import Image

    mean, std, _, side = STATISTICS[args.dataset]
    mean, std = (np.array(x, np.float32) for x in (mean, std))
    worst = 0.0
    for path, ours in zip(paths(Path(args.data) / "val"), images.numpy()):
        image = Image.open(path).convert("RGB")
        width, height = image.size
        scale = lambda length: int(256 * length / min(width, height))
        image = image.resize((scale(width), scale(height)), Image.BILINEAR)
        left, top = (int(round((length - side) / 2.0)) for length in image.size)
        pixels = np.asarray(image.crop((left, top, left + side, top + side)), np.float32) / 255
        theirs = ((pixels - mean) / std).transpose(2, 0, 1)
        worst = max(worst, float(np.abs(theirs - ours).max()))
    print(f"preprocessing: largest difference to Pillow's {worst:.1e} (one step of a pixel is {1 / 255 / 0.229:.1e})")


def paths(folder):
    """The files in CoPriv's order: the first of each class, then the second of each."""
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    kinds = (".png", ".jpg", ".jpeg")
    files = [(number, label, path) for label, sub in enumerate(classes)
             for number, path in enumerate(sorted(p for p in sub.iterdir() if p.suffix.lower() in kinds))]
    return [path for _, _, path in sorted(files)]


if __name__ == "__main__":
    sys.exit(main())
