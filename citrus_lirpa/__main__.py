"""``python -m citrus_lirpa``."""

from .cli import main

main()
