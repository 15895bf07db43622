"""What a network and its process are left in, and whose modes bounds follow."""

import copy
import threading
import warnings

import pytest
import torch
from networks import QUICK
from torch import nn

from citrus_lirpa import BoundedNet, Box, Citrus, certify, certify_uap
from citrus_lirpa.attacks import PGD
from citrus_lirpa.errors import InputError

EPS = 0.05


def norm_net():
    """A network with BatchNorm whose running statistics are far from those of any batch."""
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)
    )
    model[1].running_mean.fill_(0.4)
    model[1].running_var.fill_(3.0)
    return model


def batch(n=8):
    return torch.rand(n, 1, 8, 8), torch.arange(n) % 3


# -- modes --------------------------------------------------------------------------


def test_bounds_follow_the_mode_of_the_users_module():
    model, (x, y) = norm_net(), batch()
    net = BoundedNet(model, x[:2])
    net.train()
    net(x)
    model.eval()
    assert not net.training
    box = Box.around(x, 0.001)
    margins = net.margins(box, y)
    expected = BoundedNet(model, x[:2]).margins(box, y)
    torch.testing.assert_close(margins, expected)
    logits = model(x)
    at_centre = logits.gather(1, y.unsqueeze(1)) - logits
    assert (margins.amin(1) <= at_centre.scatter(1, y.unsqueeze(1), torch.inf).amin(1)).all()


def test_values_of_a_pass_in_train_mode_are_let_go():
    """Those of the clean batch would stay in memory beside its boxes."""
    net, rows = BoundedNet(norm_net(), batch(2)[0]).train(), 8
    x, y = batch(rows)
    net(x)
    kept = [value for node in net.bounded.modules() for value in vars(node).values()]
    computed = [v for v in kept if isinstance(v, torch.Tensor) and v.requires_grad]
    assert computed and all(len(value) != rows for value in computed)  # but statistics
    assert Citrus(0.5)(net, x, y, EPS).isfinite()


def test_a_loss_follows_it_too():
    model, (x, y) = norm_net(), batch()
    net = BoundedNet(model.eval(), x[:2])
    loss = Citrus(0.5, attack=lambda net, x, y, eps: torch.zeros_like(x))
    model.train()
    got = loss(net, x, y, EPS).item()
    expected = loss(BoundedNet(norm_net_like(model), x[:2]).train(), x, y, EPS).item()
    assert got == pytest.approx(expected, rel=1e-6)


def norm_net_like(model):
    other = norm_net()
    other.load_state_dict(model.state_dict())
    return other


def test_one_frozen_layer_stays_frozen():
    model, (x, _) = norm_net(), batch()
    net = BoundedNet(model, x[:2]).train()
    model[1].eval()
    before = model[1].running_mean.clone()
    net(x)
    assert torch.equal(model[1].running_mean, before)


def test_dropout_is_off_in_losses_and_as_it_was_after_them():
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 9), nn.ReLU(), nn.Dropout(0.9), nn.Linear(9, 3)
    )
    x, y = batch()
    net, plain = BoundedNet(model, x[:2]).train(), model.eval()(x)
    loss = Citrus(0.5, attack=lambda net, x, y, eps: torch.zeros_like(x))
    model.train()
    terms = loss(net, x, y, EPS)
    torch.testing.assert_close(terms.logits, plain)
    assert loss(net, x, y, EPS).item() == terms.item()
    assert model[3].training and not torch.equal(model(x), model(x))


# -- threads ------------------------------------------------------------------------


def test_threads_take_turns():
    """Certificates, statistics and limits are those of one thread after the other."""
    model, (x, y) = norm_net(), batch(30)
    net = BoundedNet(model.train(), x[:2])
    alone = certify(net, x, y, EPS, attack=None)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found, errors = [], []

    def work():
        try:
            for _ in range(3):
                found.append(certify(net, x, y, EPS, attack=None).margin)
        except BaseException as error:  # the thread's own would be lost
            errors.append(error)

    limits = process_state()
    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and len(found) == 9
    assert all(torch.equal(margin, alone.margin) for margin in found)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model.training and process_state() == limits


# -- the process --------------------------------------------------------------------


def process_state():
    """What a call could leave changed in the process."""
    limits = ()
    try:
        import resource

        limits = resource.getrlimit(resource.RLIMIT_DATA)
    except ImportError:
        pass  # not Linux: nothing is limited there
    return (
        limits,
        torch.get_float32_matmul_precision(),
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.get_rng_state().tolist(),
        list(warnings.filters),
    )


def test_nothing_of_the_process_is_left_changed():
    model, (x, y) = norm_net(), batch()
    certify(BoundedNet(model, x[:2]), x, y, EPS, method="bab", attack=None)  # imports
    before = process_state()
    net = BoundedNet(model, x[:2])
    certify(net, x, y, EPS, method="bab", attack=None)
    net.margins(Box.around(x, EPS), y, "alpha-crown")
    assert process_state() == before
    with pytest.raises(InputError):
        certify(net, x, y, -1.0)
    assert process_state() == before


def test_lowered_precision_and_autocast_do_not_reach_bounds():
    model, (x, y) = norm_net(), batch()
    net, box = BoundedNet(model.eval(), x[:2]), Box.around(x, EPS)
    expected = net.margins(box, y), net.margins(box, y, "crown")
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", torch.bfloat16):
            found = net.margins(box, y), net.margins(box, y, "crown")
            certificates = certify(net, x, y, EPS, attack=None)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    assert torch.equal(certificates.margin, certify(net, x, y, EPS, attack=None).margin)


def test_wrapping_draws_no_random_numbers():
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 3))
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    BoundedNet(model, torch.zeros(2, 1, 8, 8))
    assert torch.equal(torch.rand(2), expected)


def test_under_inference_mode_certificates_are_the_same_and_losses_refuse():
    model, (x, y) = norm_net(), batch(10)
    net = BoundedNet(model.eval(), x[:2])
    plain = (
        certify(net, x, y, EPS, method="bab", attack=None),
        certify_uap(net, x, y, EPS, attack=QUICK).lower,
    )
    with torch.inference_mode():
        inside = x * 1
        found = certify(net, inside, y, EPS, method="bab", attack=None)
        assert torch.equal(certify_uap(net, inside, y, EPS, attack=QUICK).lower, plain[1])
        assert PGD(steps=2)(net, inside, y, EPS).abs().max() <= EPS + 1e-6
        with pytest.raises(InputError, match=r"leave torch\.inference_mode"):
            Citrus(0.5)(net, inside, y, EPS)
    assert found.verdicts() == plain[0].verdicts()


def test_float64_goes_through_every_stage():
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 3)
    ).double()
    with torch.no_grad():
        model[1].weight *= 10  # so that classes change within the images
    x = torch.rand(30, 6, dtype=torch.float64)
    y = model(x).argmax(1)
    net, single = BoundedNet(model, x[:2]), BoundedNet(copy.deepcopy(model).float(), x[:2].float())
    for method in ("crown", "bab"):
        double = certify(net, x, y, 0.1, method=method)
        float32 = certify(single, x.float(), y, 0.1, method=method)
        assert double.certified.tolist() == float32.certified.tolist()
        assert 0 < int(double.certified.sum()) < 30
        lower = certify_uap(net, x, y, 0.1, certificates=double, attack=QUICK).lower
        assert torch.equal(
            lower, certify_uap(single, x.float(), y, 0.1, certificates=float32, attack=QUICK).lower
        )
