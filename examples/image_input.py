"""Show images to the agent: one from a file, and one from memory.

Run it with your own Codex login, or with --offline against a scripted model.
"""

import base64
import struct
import tempfile
import zlib
from pathlib import Path

import trio
from _offline import example_config

from trio_codex import ImageInput, LocalImageInput, TextInput, open_codex


def png(red: int, green: int, blue: int) -> bytes:
    """Create an image of one pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes([0, red, green, blue]))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


async def main() -> None:
    """Run the example."""
    async with example_config("image_input") as config, open_codex(config) as codex:
        thread = await codex.thread_start()
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "red.png"
            await trio.Path(path).write_bytes(png(255, 0, 0))
            # The server reads the file.
            result = await thread.run([TextInput("Which color is this?"), LocalImageInput(path)])
        print(result.final_response)

        url = "data:image/png;base64," + base64.b64encode(png(0, 0, 255)).decode()
        result = await thread.run(["And this?", ImageInput(url, detail="original")])
        print(result.final_response)


if __name__ == "__main__":
    trio.run(main)
