"""The parts of a network behind its ReLUs, and points seen through the clean batch's statistics."""

import copy

import pytest
import torch
from reference import (
    MODELS,
    SHAPE,
    at_points,
    batch,
    clean_statistics,
    gradients,
    model_names,
    small_conv,
    small_mlp,
    wrapped,
)
from torch import nn

from citrus_lirpa.bounds.graph import Graph
from citrus_lirpa.bounds.net import BoundedNet
from citrus_lirpa.errors import InputError


@pytest.mark.parametrize("mode", ["train", "eval"])
@model_names
def test_each_tail_is_the_rest_of_the_network(name, mode, double):
    """Values, and gradients in the weights of both parts and through the clean statistics."""
    model, (x, _) = MODELS[name](), batch()
    net = wrapped(model).train(mode == "train")
    relus = [at + 1 for at, layer in enumerate(model) if isinstance(layer, nn.ReLU)]
    assert net.relus == len(relus)
    for k, split in enumerate(relus):
        z = at_points(model[:split], clean_statistics(model, x), x).detach()
        z = (z + torch.rand_like(z)).requires_grad_()
        before = copy.deepcopy(model.state_dict())
        if mode == "train":
            net(x)
            before = copy.deepcopy(model.state_dict())
            expected = at_points(model[split:], clean_statistics(model, x), z)
        else:
            expected = model[split:](z)
        logits, weight = net.tail(k)(z), torch.rand(6, 3)
        torch.testing.assert_close(logits, expected)
        inputs = [z, *model[split:].parameters()]
        if mode == "train" and name == "conv" and split < relus[-1]:
            inputs += list(model[:split].parameters())
        torch.testing.assert_close(
            *(torch.autograd.grad((v * weight).sum(), inputs) for v in (logits, expected)),
            atol=1e-10,
            rtol=1e-6,
        )
        torch.testing.assert_close(model.state_dict(), before)  # nothing was updated


class Repeating(nn.Module):
    """One number, repeated by a sum or product with many constants."""

    def __init__(self, many: int, product: bool):
        super().__init__()
        self.first, self.last = nn.Linear(3, 1), nn.Linear(many, 2)
        self.product = product
        self.register_buffer("other", torch.rand(many))

    def forward(self, x):
        x = self.first(x)
        return self.last(x * self.other if self.product else x + self.other)


@pytest.mark.parametrize("product", [False, True])
def test_numbers_that_are_repeated_count_as_often_on_the_way_back(product):
    """The coefficient of a repeated number adds up those of all its copies."""
    few, many = (
        BoundedNet(Repeating(size, product), torch.rand(2, 3)).eval().affine_segments()[-1].terms[1]
        for size in (5, 500)
    )
    assert many - few >= 2 * (500 - 5)  # in the linear layer, and where numbers are repeated


def test_operations_come_behind_what_they_take(monkeypatch):
    """auto_LiRPA 0.7 puts the parts of maxima and quotients last."""
    net = wrapped(small_conv())
    operations, relus = list(net.graph.operations), net.graph.relus
    parts = net.bounded._modules
    monkeypatch.setattr(net.bounded, "_modules", dict(reversed(parts.items())))
    graph = Graph(net.bounded)
    assert (list(graph.operations), graph.relus) == (operations, relus)


def test_a_frozen_tail_is_differentiable_in_its_input_alone():
    model, (x, _) = small_conv(), batch()
    net = wrapped(model)
    logits = net(x)
    tail, z = net.tail(0), torch.rand(5, 3, 5, 5)
    torch.testing.assert_close(tail.frozen()(z), tail(z))
    assert not tail.frozen()(z).requires_grad and tail(z).requires_grad
    z.requires_grad_()
    (expected,) = torch.autograd.grad(tail(z).sum(), z, retain_graph=True)
    tail.frozen()(z).sum().backward()  # frees the graph of nothing but itself
    torch.testing.assert_close(z.grad, expected)
    assert all(p.grad is None for p in model.parameters())
    (logits.sum() + net.logits(x[:2]).sum()).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_a_tail_without_layers_gives_the_values_back():
    net = BoundedNet(nn.Sequential(nn.Linear(2, 3), nn.ReLU()), torch.rand(1, 2))
    z = torch.rand(4, 3)
    assert torch.equal(net.tail(0)(z), z)


@model_names
def test_other_points_see_the_clean_batch_and_change_nothing(name, double):
    model, (x, _) = MODELS[name](), batch()
    net = wrapped(model)
    net(x)
    before, points = copy.deepcopy(model.state_dict()), torch.rand(9, *SHAPE)
    expected = at_points(model, clean_statistics(model, x), points)
    logits, weight = net.logits(points), torch.rand(9, 3)
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(
        gradients((logits * weight).sum(), model), gradients((expected * weight).sum(), model)
    )
    torch.testing.assert_close(model.state_dict(), before)
    torch.testing.assert_close(net.logits(points), expected)  # nor does asking twice
    torch.testing.assert_close(net.eval().logits(points), model(points))


@pytest.mark.parametrize("relu", [-2, 2, 10])
def test_no_tail_behind_a_relu_that_is_not_there(relu):
    with pytest.raises(InputError, match=rf"there is no ReLU {relu}; the network has 2, from 0"):
        wrapped(small_mlp()).tail(relu)
