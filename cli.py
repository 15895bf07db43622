"""Launches the command line from a checkout: ``python cli.py train ...``."""

from citrus_lirpa.cli import main

if __name__ == "__main__":
    main()
