"""``python -m walstream`` is the command ``walstream``."""

from walstream.cli import main

main(prog_name="walstream")
