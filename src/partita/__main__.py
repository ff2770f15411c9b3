"""`python -m partita`: the same as the command `partita`."""

from partita.start import main

main()
