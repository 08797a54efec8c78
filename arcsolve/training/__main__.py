"""``python -m arcsolve.training``: the ``train`` command without click."""

import os
import sys

from arcsolve.errors import ArcsolveError
from arcsolve.training.command import main

if __name__ == "__main__":
    try:
        sys.exit(main())
    except ArcsolveError as error:
        print(f"arcsolve: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still buffered would fail at exit
        sys.exit(141)
    except KeyboardInterrupt:
        print("arcsolve: interrupted", file=sys.stderr)
        sys.exit(130)
