"""Loads a fused network that `copriv export --format safetensors` wrote, as a PyTorch module.

    model = FusedNetwork("fused.safetensors").eval()
    logits = model(images)  # normalised images [batch, 3, side, side]

A fused convolution lacks part of its bias where its kernel reaches past the border, so a bias may depend on the
position: it is then stored by border class, and `rows` and `columns` give each position's class. An activation in part
has a `mask`, true where it applies; other values pass as they are.
"""

import json

import torch
from safetensors import safe_open
from torch import nn
from torch.nn import functional


class FusedConv(nn.Module):
    def __init__(self, geometry, tensors):
        super().__init__()
        self.stride, self.padding, self.groups = (geometry[key] for key in ("stride", "padding", "groups"))
        self.weight, self.bias = nn.Parameter(tensors["weight"]), nn.Parameter(tensors["bias"])
        self.register_buffer("rows", tensors.get("rows"))
        self.register_buffer("columns", tensors.get("columns"))

    def forward(self, x):
        is_map = self.rows is not None
        y = functional.conv2d(x, self.weight, None if is_map else self.bias, self.stride, self.padding, 1, self.groups)
        return y + self.bias[:, self.rows][:, :, self.columns] if is_map else y


class FusedNetwork(nn.Module):
    def __init__(self, path):
        super().__init__()
        with safe_open(path, "pt") as file:
            self.layers = json.loads(file.metadata()["copriv.layers"])
            tensors = {}
            for key in file.keys():
                name, part = key.rsplit(".", 1)
                tensors.setdefault(name, {})[part] = file.get_tensor(key)
        for index, layer in enumerate(self.layers):
            if "activation" in layer["op"]:
                self.register_buffer(f"mask{index}", tensors.get(layer["name"], {}).get("mask"))
        convs = [(index, layer) for index, layer in enumerate(self.layers) if "conv" in layer["op"]]
        self.convs = nn.ModuleDict({str(i): FusedConv(layer["op"]["conv"], tensors[layer["name"]])
                                    for i, layer in convs})

    def forward(self, images):
        values = []
        for index, layer in enumerate(self.layers):
            op, inputs = layer["op"], [values[i] for i in layer["inputs"]]
            if op == "input":
                value = images
            elif op == "add":
                value = inputs[0] + inputs[1]
            elif op == "global_average_pool":
                value = inputs[0].mean((2, 3), keepdim=True)
            elif "conv" in op:
                value = self.convs[str(index)](inputs[0])
            elif "activation" in op:
                value = torch.relu(inputs[0]) if op["activation"] == "relu" else functional.relu6(inputs[0])
                mask = getattr(self, f"mask{index}")
                value = value if mask is None else torch.where(mask, value, inputs[0])
            else:
                pool = op["max_pool"]
                value = functional.max_pool2d(inputs[0], pool["kernel"], pool["stride"], pool["padding"])
            values.append(value)
        return values[-1].flatten(1)
