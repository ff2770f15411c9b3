"""`python -m partita`: the same as the command `partita`."""

from partita.cli.main import main

main()
