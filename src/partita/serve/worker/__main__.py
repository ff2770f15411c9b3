"""`python -m partita.serve.worker`."""

import sys

from partita.serve.worker.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
