"""`python -m synchro`: never run a file of the package as a script, `queue` would shadow the standard one."""

from synchro.cli import main

if __name__ == "__main__":
    main()
