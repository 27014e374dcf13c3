"""``model-server`` and ``python -m model_server``."""

from __future__ import annotations

from model_server.cli import main

if __name__ == "__main__":
    main()
