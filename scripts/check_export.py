"""Checks that exported networks compute in PyTorch and onnxruntime what CoPriv computes.

    python scripts/check_export.py --copriv target/release/copriv --work FOLDER \
        --case CHECKPOINT DATASET DATA MASK [--case ...] [--limit N]

For each checkpoint, as it is and fused with the gates of MASK: exports safetensors and ONNX, lets `copriv eval --dump`
write what goes into its own network and what comes out, and runs the same images through docs/load_fused.py (or the
plain PyTorch network), and through onnxruntime. Differences are relative to the largest logit. A DATASET may be a
manifest of random images. A MASK of `-` leaves the gates as they are: for checkpoints with removed gates or activations in
part, of which the plain PyTorch network knows nothing and onnxruntime alone runs the unfused form. Needs torch, safetensors, numpy and onnxruntime.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import onnxruntime
import torch
from safetensors import safe_open
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parent.parent / "docs"))
from load_fused import FusedNetwork
from pytorch_networks import logits, network

TOLERANCE = 1e-4


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--copriv", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--case", nargs=4, action="append", required=True)
    parser.add_argument("--limit", default="20")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    worst = 0.0
    for checkpoint, dataset, data, mask in args.case:
        pruned, fused = args.work / "pruned.safetensors", args.work / "fused.safetensors"
        if mask != "-":
            run(args, "prune", checkpoint, "--mask", mask, "--out", pruned)
        run(args, "fuse", checkpoint if mask == "-" else pruned, "--out", fused)
        for kind, artefact in (("unfused", checkpoint), ("fused", fused)):
            in_torch = mask != "-" or kind == "fused"
            worst = max(worst, check(args, f"{Path(checkpoint).name} {kind}", artefact, dataset, data, in_torch))
    return 0 if worst <= TOLERANCE else 1


def check(args, title, artefact, dataset, data, in_torch):
    """The largest difference, relative to the largest logit."""
    dump, plain, onnx = (args.work / name for name in ("dump.safetensors", "plain.safetensors", "network.onnx"))
    run(args, "eval", artefact, "--dataset", dataset, "--data", data, "--limit", args.limit, "--dump", dump)
    run(args, "export", artefact, "--format", "safetensors", "--out", plain)
    run(args, "export", artefact, "--format", "onnx", "--out", onnx)
    ours = load_file(dump)
    size = ours["logits"].abs().max()
    session = onnxruntime.InferenceSession(str(onnx), providers=["CPUExecutionProvider"])
    (theirs,) = session.run(None, {"image": ours["images"].numpy()})
    found = {"onnxruntime": torch.from_numpy(theirs)}
    if in_torch:
        found["PyTorch"] = logits(torch_network(plain), ours["images"])
    differences = {name: ((y - ours["logits"]).abs().max() / size).item() for name, y in found.items()}
    said = ", ".join(f"{name} {difference:.1e}" for name, difference in differences.items())
    print(f"{title}, {len(theirs)} images of {Path(dataset).stem}: {said}", flush=True)
    return max(differences.values())


def torch_network(path):
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    if "copriv.layers" in metadata:
        return FusedNetwork(path).eval()
    identity = json.loads(metadata["copriv.network"])
    _, side, _ = identity["input"]["shape"]
    model = network(identity["architecture"], identity["width"], identity["classes"], side, identity["activation"])
    model.load_state_dict(load_file(path))
    return model


def run(args, *arguments):
    subprocess.run([args.copriv, "-q", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    sys.exit(main())
