"""``python -m trio_codex``: the command ``trio-codex``."""

from trio_codex.cli import main

if __name__ == "__main__":
    main()
