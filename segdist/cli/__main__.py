"""`python -m segdist.cli`, where the console script is not on the path."""

from segdist.cli import main

main()
