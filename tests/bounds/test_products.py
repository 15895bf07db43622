"""Products of linear layers by oneDNN: those of torch, with their gradients."""

import pytest
import torch
import torch.nn.functional as F

from citrus_lirpa.bounds.products import linear, product

#: (N, I, O): too small for oneDNN, and large enough.
SIZES = [(3, 5, 4), (64, 300, 200)]


def operands(n, inputs, outputs, dtype=torch.float32):
    sizes = (n, inputs), (outputs, inputs), (outputs,)
    return [torch.randn(size).to(dtype).requires_grad_() for size in sizes]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_values_and_gradients_are_torchs(size, bias):
    values = operands(*size)[: 2 + bias]
    g = torch.randn(size[0], size[2])
    found = [[y, *torch.autograd.grad(y, values, g)]
             for y in (linear(*values), F.linear(*values))]  # fmt: skip
    torch.testing.assert_close(*found, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_are_kept(dtype):
    x, weight, bias = (v.detach() for v in operands(*SIZES[1], dtype))
    exact = F.linear(x.double(), weight.double(), bias.double())
    tolerance = 1e-9 if dtype == torch.float64 else 0.5
    found = linear(x, weight, bias)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), exact, atol=tolerance, rtol=0.02)
    torch.testing.assert_close(product(x, weight.t()), x @ weight.t(), atol=0.5, rtol=0.02)


def test_any_layout_will_do():
    """Rows apart in memory, as of a slice, and inputs of more than two dimensions."""
    x, weight, _ = (v.detach() for v in operands(*SIZES[1]))
    wide = torch.empty(200, 316)[:, :300].copy_(weight)
    for left, right in ((x, wide), (x.t().contiguous().t(), weight), (x[::2], weight)):
        torch.testing.assert_close(linear(left, right), left @ right.t(), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(product(left, right.t()), left @ right.t(), atol=1e-4, rtol=1e-4)
    several = x.view(8, 8, 300)
    torch.testing.assert_close(linear(several, weight), several @ weight.t(), atol=1e-4, rtol=1e-4)


@pytest.mark.filterwarnings("ignore")  # torch warns of its own code
def test_torch_compile_traces_plain_products():
    x, weight, bias = operands(*SIZES[1])
    seen = []

    def record(graph, _):
        seen.extend(str(node.target) for node in graph.graph.nodes)
        return graph

    compiled = torch.compile(linear, backend=record, fullgraph=True)
    torch.testing.assert_close(compiled(x, weight, bias), F.linear(x, weight, bias))
    assert any("linear" in name for name in seen) and not any("mkldnn" in n for n in seen)


def test_autocast_is_followed():
    x, weight, bias = operands(*SIZES[1])
    with torch.autocast("cpu", torch.bfloat16):
        found = linear(x, weight, bias)
    assert found.dtype == torch.bfloat16
