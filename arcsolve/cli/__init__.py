"""The command line: one module per command, and the only place that prints or exits.

``training.command`` does too: the trainer has to run where click is not installed.
"""
