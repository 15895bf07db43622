"""Runs on the disk: trained, evaluated, attacked and swept, and what is in their folders."""

from ..training.setup import build as build
