"""`python -m service` is the `rankrag` command."""

from service.cli import main

if __name__ == "__main__":
    main()
