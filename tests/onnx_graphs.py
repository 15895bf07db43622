"""Small ONNX graphs for the reader."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from citrus_lirpa.errors import ModelError
from citrus_lirpa.formats.onnx import load_onnx

NODE = helper.make_node
RNG = np.random.default_rng(0)


def weights(*shape: int) -> np.ndarray:
    return (0.3 * RNG.normal(size=shape)).astype(np.float32)


def graph(nodes, constants, *, shape=(1, 2, 8, 8), out=(1, 4), opset=17, outputs=("y",)):
    """A model from "x" to "y"; ``constants`` are its initialisers."""
    return helper.make_model(
        helper.make_graph(
            nodes,
            "net",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, out) for name in outputs],
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=8,
    )


def head(source: str, width: int) -> tuple[list, dict]:
    """Flattening and a linear layer from the value ``source``."""
    nodes = [NODE("Flatten", [source], ["flat"]), NODE("Gemm", ["flat", "w", "b"], ["y"])]
    return nodes, {"w": weights(width, 4), "b": weights(4)}


def with_head(nodes, constants, width: int, **options):
    more, values = head(nodes[-1].output[0], width)
    return graph([*nodes, *more], {**constants, **values}, **options)


def read(model, tmp_path: Path) -> nn.Module:
    onnx.save(model, tmp_path / "net.onnx")
    return load_onnx(tmp_path / "net.onnx")[0]


CONV = {"k": weights(3, 2, 3, 3), "kb": weights(3)}
BATCHNORM = {"s": 1 + weights(3), "o": weights(3), "m": weights(3), "v": 1 + weights(3) ** 2}


def conv(source="x", target="c", names=("k", "kb"), **options):
    return NODE("Conv", [source, *names], [target], kernel_shape=[3, 3], **options)


def refused(model, tmp_path: Path, kind=ModelError) -> str:
    """The one line that the reader says of it."""
    path = tmp_path / "bad.onnx"
    if isinstance(model, bytes):
        path.write_bytes(model)
    else:
        path.write_bytes(model.SerializeToString())
    with pytest.raises(kind) as caught:
        load_onnx(path)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    return message
