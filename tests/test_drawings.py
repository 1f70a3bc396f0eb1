"""The diagrams: what they say is in their tables, nothing is cut off or written over something else,
and the network is drawn as it is."""

import io

import matplotlib.pyplot as plt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nsclc_radiomics.core.errors import DataError, OptionError
from nsclc_radiomics.models.network import build_network
from nsclc_radiomics.paper.drawings import MECHANISM, WORKFLOW, draw_mechanism, draw_workflow
from nsclc_radiomics.paper.network_drawing import draw_network, layer_shapes, network_stages


def boxes(figure) -> list[tuple[str, object]]:
    "Every text with the place that it takes on the page."
    figure.canvas.draw()
    texts = [t for ax in figure.axes for t in ax.texts if t.get_text().strip()]
    return [(t.get_text(), t.get_window_extent()) for t in texts]


def drawings() -> dict[str, object]:
    layers = layer_shapes(build_network(6, 24, masks=(2, 5)), (6, 24, 24, 24))
    names = ["ct 1.5 mm", "tissue 1.5 mm", "mask 1.5 mm", "ct 3 mm", "tissue 3 mm", "mask 3 mm"]
    numbers = {
        "prediction": "AUC of the 3D-CNN elsewhere 0.84 (0.77 to 0.91)",
        "followup": "responders here 0.61 (0.57 to 0.65)",
    }
    return {
        "figure 1": draw_mechanism()[0],
        "figure 3": draw_network(layers, names),
        "figure 6": draw_workflow(numbers)[0],
    }


@pytest.fixture(scope="module")
def figures():
    made = drawings()
    yield made
    plt.close("all")


@pytest.mark.parametrize("name", ["figure 1", "figure 3", "figure 6"])
def test_no_text_is_cut_off_or_written_over_another(figures, name):
    figure, placed = figures[name], boxes(figures[name])
    page = figure.bbox
    for text, box in placed:
        assert page.x0 - 1 <= box.x0 and box.x1 <= page.x1 + 1 and page.y0 - 1 <= box.y0 and box.y1 <= page.y1 + 1, text
    for k, (one, a) in enumerate(placed):
        for other, b in placed[k + 1 :]:
            wide, high = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
            assert wide <= 2 or high <= 2, (one, other)


@pytest.mark.parametrize("name", ["figure 1", "figure 3", "figure 6"])
def test_letters_are_readable_at_the_width_of_a_page(figures, name):
    figure = figures[name]
    assert figure.get_figwidth() <= 7.3
    assert min(t.get_fontsize() for ax in figure.axes for t in ax.texts) >= 5.5


def test_the_same_drawing_has_the_same_bytes():
    def svg(figure) -> bytes:
        with plt.rc_context({"svg.hashsalt": "x"}):
            figure.savefig(out := io.BytesIO(), format="svg", metadata={"Date": None})
        return out.getvalue()

    one, other = drawings(), drawings()
    assert all(svg(one[name]) == svg(other[name]) for name in one)
    plt.close("all")


def test_tables_say_what_the_drawings_say(figures):
    written = " ".join(text.replace("\n", " ") for text, _ in boxes(figures["figure 6"]))
    assert all(row.what in written and row.who in written for row in WORKFLOW.itertuples())
    assert set(MECHANISM.panel) == {"B", "C", "D"}
    with pytest.raises(OptionError, match="surgery"):
        draw_workflow({"surgery": "none"})


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 4), st.lists(st.integers(1, 9), min_size=1, max_size=3), st.integers(1, 8))
def test_shapes_and_weights_are_those_of_the_network(channels, widths, hidden):
    network = build_network(channels, 16, widths, hidden)
    table = layer_shapes(network, (channels, 16, 16, 16))
    stages = network_stages(table)
    total = sum(p.numel() for p in network.parameters())
    assert table.weights.sum() == total and stages.weights.sum() == total
    assert table.output.iloc[0] == (channels, 16, 16, 16) and table.output.iloc[-1] == (1,)
    last = table[table.kind == "Conv3d"].iloc[-1]
    assert last.output[0] == widths[-1]
    assert not any(part._forward_hooks for part in network.modules()) and network.training


def test_a_branch_is_seen_and_drawn():
    class Branched(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.side = (
                torch.nn.Conv3d(1, 2, 3, padding=1),
                torch.nn.Conv3d(2, 4, 3, padding=1),
                torch.nn.AdaptiveAvgPool3d(1),
            )
            self.end = torch.nn.Linear(6, 1)

        def forward(self, x):
            a = self.one(x)
            side = self.side(a).flatten(1)
            return self.end(torch.cat([side, self.two(a).mean(dim=(2, 3, 4))], dim=1))

    table = layer_shapes(Branched(), (1, 8, 8, 8))
    assert table.set_index("layer").after.to_dict() == {
        "input": "",
        "one": "input",
        "side": "one",
        "two": "one",
        "end": "",
    }
    stages = network_stages(table)
    assert stages.source.tolist() == [-1, 0, 1, 1, -1]
    plt.close(draw_network(table))


def test_a_deep_network_takes_a_second_row():
    layers = [torch.nn.Conv3d(k + 1, k + 2, 3, padding=1) for k in range(12)]
    table = layer_shapes(torch.nn.Sequential(*layers), (1, 8, 8, 8))
    figure = draw_network(table)
    assert figure.get_figheight() > 4 and len(boxes(figure)) > 24
    plt.close(figure)


def test_an_array_that_does_not_fit_is_refused():
    with pytest.raises(DataError, match=r"\(2, 24, 24, 24\) does not go through"):
        layer_shapes(build_network(6, 24), (2, 24, 24, 24))
