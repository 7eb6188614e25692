"""``python -m trio_codex.cli``."""

from trio_codex.cli import main

if __name__ == "__main__":
    main()
