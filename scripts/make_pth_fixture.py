#!/usr/bin/env python3
"""Saves a state dict as PyTorch does: the fixture of crates/trainer/tests/import.rs. Needs torch and safetensors.

    copriv init --network resnet20 --width 0.1 --classes 4 --resolution 16 --seed 7 --out net
    copriv export net --format safetensors --out net.safetensors
    scripts/make_pth_fixture.py net.safetensors crates/trainer/tests/data/resnet20.pth
"""

import sys

import safetensors.torch
import torch

source, target = sys.argv[1:]
weights = safetensors.torch.load_file(source)
torch.save({"epoch": 3, "state_dict": weights}, target)
