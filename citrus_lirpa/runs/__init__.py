"""Runs on the disk: trained networks, sweeps, what is evaluated of them."""

from ..training.setup import build as build
