"""`python -m ddlm`, which torchrun can start."""

from ddlm.cli import main

main()
