"""`python -m katachi` is the `katachi` command."""

from katachi.cli import main

if __name__ == "__main__":
    main()
