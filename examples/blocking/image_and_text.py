"""Show an image that exists only in memory to the agent.

Run it with your own Codex login, or with --offline against a scripted model.
"""

from _config import offline_config

from trio_codex import ImageInput, TextInput, blocking

# A red image of one pixel.
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"

with offline_config("image_and_text") as config, blocking.open_codex(config) as codex:
    image = ImageInput(f"data:image/png;base64,{PNG}")
    result = codex.thread_start().run([TextInput("Which color is this?"), image])
    print(result.final_response)
