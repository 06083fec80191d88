"""Run the command line as `python -m gnnexport`."""

from gnnexport.cli.app import main

if __name__ == "__main__":
    main()
