"""`python -m gastown` is `gastown`."""

from gastown.cli import main

main()
