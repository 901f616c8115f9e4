"""The slider of the missing rates shows other runs, and says their numbers."""

import pandas as pd
import pytest
from balancing_tables import study_runs

from mtg_lab.widgets_balancing import by_imbalance, missing_rates


def test_rates_stand_in_the_order_of_their_imbalance():
    assert by_imbalance(study_runs()) == ["balanced", "mr2468"]


def test_sliding_shows_the_runs_of_other_rates():
    box = missing_rates(study_runs())
    slider, boxes, image, caption = box.children
    assert slider.value == "balanced"
    assert "t1n 50%, t1c 50%, t2w 50%, t2f 50%" in caption.value
    before = image.value
    slider.value = "mr2468"
    assert "t1n 80%, t1c 60%, t2w 20%, t2f 40%" in caption.value
    assert "fused 0.510, t2w alone 0.110; passion 0.610, t2w alone 0.210" in caption.value
    assert image.value != before
    before = image.value
    boxes.children[0].value = False
    assert "fused" not in caption.value
    assert image.value != before
    boxes.children[1].value = False
    assert "fused 0.510" in caption.value, "with nobody ticked there is nothing to hide"


def test_with_several_networks_one_is_chosen():
    runs = pd.concat([study_runs(), study_runs().assign(backbone="rfnet", dice=0.25)], ignore_index=True)
    _, network, _, _, caption = missing_rates(runs).children
    assert "fused 0.510" in caption.value
    network.value = "rfnet"
    assert "fused 0.250" in caption.value


def test_an_empty_table_is_refused():
    with pytest.raises(ValueError, match="no run"):
        missing_rates(study_runs().iloc[:0])
