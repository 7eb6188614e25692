"""Turn input: values that the server would drop raise an error or a warning where they are passed."""

import warnings
from pathlib import Path

import pytest

from trio_codex import ExternalMessage, ImageInput, LocalImageInput, wire
from trio_codex._values.inputs import wire_input

URL = "data:image/png;base64,AA=="


def with_image(detail):
    image = wire.InputImageFunctionCallOutputContentItem(image_url=URL, detail=detail)
    return ExternalMessage("camera", [wire.InputTextFunctionCallOutputContentItem(text="look"), image])


MAKERS = [
    lambda detail: ImageInput(URL, detail),
    lambda detail: ImageInput(URL, detail=detail),
    lambda detail: LocalImageInput("red.png", detail=detail),
    with_image,
]


@pytest.mark.parametrize("make", MAKERS)
def test_an_image_that_the_server_would_drop_warns_at_the_line_that_creates_it(make):
    with pytest.warns(UserWarning, match="use 'high', 'original' or 'auto'") as caught:
        make("low")
    (warning,) = caught
    assert warning.filename == __file__


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("detail", ["high", "original", "auto", "later", None])
def test_an_image_in_another_resolution_is_sent_without_a_warning(make, detail):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wire_input(make(detail))


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (3, "cannot be an int: pass a string, an input such as TextInput or ImageInput, or a list of those"),
        (None, "cannot be None: pass a string"),
        ({"text": "hi"}, "cannot be a dict: pass a string"),
        (b"hi", "cannot be a bytes: decode it to a string"),
        (["hi", b"hi"], "cannot be a bytes: decode it to a string"),
        (Path("red.png"), r"cannot be a \w*Path: write LocalImageInput\(path\) for an image"),
        ([ExternalMessage("tool", "text"), "hi"], "cannot be an ExternalMessage: pass it alone"),
        ((part for part in ["hi"]), "cannot be a generator: pass a string"),
    ],
)
def test_an_invalid_input_is_refused_with_a_hint(value, told):
    with pytest.raises(TypeError, match=f"the input of a turn {told}"):
        wire_input(value)
