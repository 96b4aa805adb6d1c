"""stackd from a checkout: ``python stackd.py serve``, ``demo``, ``check`` and all other commands."""

from stackd.cli import main

if __name__ == "__main__":
    main()
