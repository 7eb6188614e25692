"""Recordings of the traffic on a connection: one JSON object per line, redacted unless you ask for content.

A :class:`Recorder` is an instrument that writes a recording, :func:`read_recording` reads it,
:func:`trio_codex.testing.replay` plays it to a client, and ``trio-codex replay`` displays it.
"""

from ._file import Entry as Entry
from ._file import Kind as Kind
from ._file import Recording as Recording
from ._file import RecordingError as RecordingError
from ._file import read_recording as read_recording
from ._recorder import Recorder as Recorder
from ._redaction import Redaction as Redaction
