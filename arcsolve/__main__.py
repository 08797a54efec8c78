"""``python -m arcsolve``."""

from arcsolve.cli.main import main

main()
