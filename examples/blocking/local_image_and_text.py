"""Show an image file to the agent.

Run it with your own Codex login, or with --offline against a scripted model.
"""

import base64
import tempfile
from pathlib import Path

from _config import offline_config

from trio_codex import LocalImageInput, TextInput, blocking

# A red image of one pixel.
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"

with (
    offline_config("local_image_and_text") as config,
    blocking.open_codex(config) as codex,
    tempfile.TemporaryDirectory() as directory,
):
    path = Path(directory) / "red.png"
    path.write_bytes(base64.b64decode(PNG))
    result = codex.thread_start().run([TextInput("Which color is this?"), LocalImageInput(path)])
    print(result.final_response)
