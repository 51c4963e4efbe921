"""`python -m peft_fishdip` is the command `fishdip`."""

from .cli.app import main

if __name__ == "__main__":
    main()
