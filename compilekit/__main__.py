"""`python -m compilekit`: the command line."""

from compilekit.cli import main

main()
