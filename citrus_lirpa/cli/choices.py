"""Names and defaults that help and completion show, which are imported without torch.

Each stands elsewhere too, where it is used; a test compares them.
"""

from __future__ import annotations

from typing import Any

#: ``config.presets()``
PRESETS = (
    "cifar10-2-255", "cifar10-8-255", "digits", "mnist-0.1", "mnist-0.3", "tinyimagenet-1-255",
)  # fmt: skip
#: ``config.methods()``
METHODS = (
    "citrus", "ibp", "crown-ibp", "sabr", "taps", "staps", "colt", "mtl-ibp", "cc-ibp", "exp-ibp",
    "pgd", "uat", "cw-uat", "uap-game", "gaussian", "smoothadv", "denoiser", "ce",
    "citrus-si",
)  # fmt: skip
#: ``config.MODES``
MODES = ("paper", "large", "fast")
#: ``config.MAX_SEED``
MAX_SEED = 2**32 - 1
#: ``precision.PRECISIONS``
PRECISIONS = ("float32", "bfloat16", "tf32")
#: ``loggers.LOGGERS``
LOGGERS = ("tensorboard", "wandb")
#: ``actions.sweep.LAUNCHERS``
LAUNCHERS = ("local", "slurm")
#: ``data.DATASETS``
DATASETS = (
    "digits", "mnist", "fashionmnist", "kmnist", "cifar10", "svhn", "gtsrb", "tinyimagenet",
)  # fmt: skip
#: ``verify.STAGES``
STAGES = ("ibp", "crown-ibp", "crown", "alpha-crown", "bab")
#: ``bounds.net.BOUNDS``
BOUNDS = ("own", "auto-lirpa")
#: ``verify.RELATIONAL``
RELATIONAL = ("none", "io", "cross", "zeng", "raven", "racoon", "rabbit")
#: ``verify.SOLVERS``
SOLVERS = ("highs", "gurobi")
#: ``bounds.norms.NORMS``, as users write them
NORMS = ("inf", "2")
#: ``bounds.arithmetic.ARITHMETICS``
ARITHMETICS = ("real", "float32")
#: The defaults of ``verify.Protocol``, but for the norm, which is the network's.
PROTOCOL: dict[str, Any] = {
    "method": "bab",
    "relational": None,
    "group_size": 5,
    "time_limit": 10.0,
    "total_time": None,
    "solver": "highs",
    "limit": None,
    "clip": None,
    "batch_size": 256,
    "seed": 0,
    "held_out": False,
    "arithmetic": "real",
}
#: The defaults of ``verify.Smoothing``.
SMOOTHING: dict[str, Any] = {"n0": 100, "n": 100_000, "alpha": 0.001, "seed": 0}
#: ``attacks.SgdUap.epochs``
SGD_UAP_EPOCHS = 10
#: The keys of ``capabilities.CAPABILITIES``, and what each is about.
CAPABILITIES = {
    "onnx-opset-versions": "The oldest and the newest version of ONNX's operators.",
    "onnx-element-types": "Types of numbers.",
    "onnx-operators": "Operators that networks may have.",
    "vnnlib-versions": "The oldest and the newest version of VNN-LIB.",
    "hidden-node-theories": "Whether values within networks may be named (H) or not (NH).",
    "multiple-input-output-theories": "Whether networks may have several inputs and outputs.",
    "multiple-network-theories": "Whether queries may have several networks.",
    "multiple-node-comparison-theories": "Whether constraints may compare inputs and outputs.",
    "arithmetic-complexity-theories": "Bounds, comparisons of outputs, linear arithmetic.",
    "optimised-disjunctive-reasoning": "Whether (or ...) is more than a list of queries.",
    "serialise-assignments": "Whether verify has the option of this name.",
}
