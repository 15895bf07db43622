"""A checker of the proofs that ``citrus-lirpa eval --proofs`` writes, on NumPy alone.

``python -m citrus_lirpa.checker proofs model.onnx`` checks every ``.npz`` file of the folder
``proofs`` against the network in ``model.onnx``. It shares no code with what made the proofs, and
trusts nothing that they say. The format, and a proof by hand, are in the documentation (Proofs).

What is proved are refuted tuples: no perturbation u with every |u_p| <= eps makes the margins
(logit of the label minus logit of a class) of some (image, class) pairs <= 0 at once. An image is
certified where each of its wrong classes is refuted alone; a group keeps as many images as refuted
tuples leave in the worst case. Margins are those in real numbers or, where the statement says so,
those that a device computes in float32.
"""

from .counting import Refuted, most_broken, open_classes
from .entries import CROWN, INTERVAL, SLOPES
from .network import Network, Refused
from .proofs import Summary, check_folder, read_network
from .statement import FORMAT

__all__ = [
    "CROWN",
    "FORMAT",
    "INTERVAL",
    "SLOPES",
    "Network",
    "Refused",
    "Refuted",
    "Summary",
    "check_folder",
    "most_broken",
    "open_classes",
    "read_network",
]
