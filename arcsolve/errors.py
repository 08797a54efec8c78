"""The one exception family that a user is meant to read."""


class ArcsolveError(Exception):
    """Something the user can mend; its message is one line naming the file and the place in it.

    The command line prints the message to stderr and exits with ``exit_code``; every other exception is our defect.
    """

    exit_code = 1


class FormatError(ArcsolveError):
    """Data that is not what its format promises: a task file, a submission, a pack, weights."""
