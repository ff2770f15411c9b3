from __future__ import annotations

import pytest

from partita.errors import InputError
from partita.perf.measure.inputs import FedInput, Input, feed, parse_shapes

IMAGE = Input("x", "tensor(float)", ("batch", 3, "height", None))


def test_sizes_come_by_input_and_by_dimension():
    given = parse_shapes(["x=1x3x224x160"])
    assert feed([IMAGE], given).inputs[0].shape(8) == (8, 3, 224, 160)
    tokens = Input("ids", "tensor(int64)", ("batch", "tokens"))
    (fed,) = feed([tokens], parse_shapes(["tokens=128"])).inputs
    assert fed == FedInput("ids", "int64", (None, 128))
    assert fed.shape(4) == (4, 128)


def test_the_batch_is_where_it_is_said_to_be():
    sequence = Input("x", "tensor(float)", ("time", "n", 8))
    state = Input("h", "tensor(float)", (1, "n", 16))
    for where in ("1", "n"):
        fed = feed([sequence, state], {"time": (10,)}, where).inputs
        assert [each.shape(5) for each in fed] == [(10, 5, 8), (1, 5, 16)]


def test_a_symbol_is_the_batch_wherever_it_stands():
    other = Input("z", "tensor(float)", (2, "batch"))
    fed = feed([IMAGE, other], {"x": (1, 3, 4, 4)}).inputs
    assert fed[1].shape(7) == (2, 7)


def test_a_model_of_one_batch_size_says_which():
    assert feed([Input("x", "tensor(float)", (16, 4))], {}).fixed == 16
    assert feed([Input("x", "tensor(float)", ("b", 4))], {}).fixed is None


@pytest.mark.parametrize(
    ("inputs", "given", "batch_dim", "what"),
    [
        ([IMAGE], {}, "0", r"a dimension of x\[batch, 3, height, \?\] is not known"),
        ([IMAGE], {"x": (1, 3, 224)}, "0", "3 sizes for x"),
        ([IMAGE], {"x": (1, 4, 224, 224)}, "0", "4 where the model has 3"),
        ([IMAGE], {"image": (1, 3, 4, 4)}, "0", "no input or dimension 'image'"),
        ([IMAGE], {"height": (4, 4), "x": (1, 3, 4, 4)}, "7", "no batch dimension|has a batch dimension 7"),
        ([Input("x", "tensor(string)", ("b",))], {}, "0", "no random data"),
        (
            [Input("x", "tensor(float)", (2,)), Input("y", "tensor(float)", (3,))],
            {},
            "0",
            "different batches",
        ),
    ],
)
def test_what_cannot_be_fed_is_told(inputs, given, batch_dim, what):
    with pytest.raises(InputError, match=what):
        feed(inputs, given, batch_dim)


@pytest.mark.parametrize("text", ["x", "x=", "=3", "x=3xy", "x=0x3", "x=-1"])
def test_what_is_no_shape_is_told(text):
    with pytest.raises(InputError, match="is not a shape"):
        parse_shapes([text])


def test_two_shapes_of_one_input_are_told():
    with pytest.raises(InputError, match="two shapes"):
        parse_shapes(["x=1", "x=2"])
