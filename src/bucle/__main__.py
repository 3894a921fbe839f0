"""`python -m bucle` is `bucle`."""

from bucle.cli.main import main

main()
