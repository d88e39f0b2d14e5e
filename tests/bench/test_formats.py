"""The two ways of bench.formats compute the same, and their figures are of that."""

import torch

from bench.formats import _distance, _ways, cut, nets
from passes.ratios import Cutter
from specs.options import PagcpOptions


def test_stacked_candidates_are_the_cut_ones():
    for net in nets():
        if net.name == "resnet20":
            continue
        program, channels = net.traced()
        images = torch.randn(3, *net.shape)
        for group in [g for g in Cutter(channels, PagcpOptions()).groups if len(g.producers) == 1]:
            keeps = [cut(channels, [group], share) for share in (0.25, 0.5)]
            with torch.inference_mode():
                first, second = (way() for way in _ways(program, channels, group, keeps, images))
            assert _distance(first, second) < 1e-5
            assert _distance(first[0], second[1]) > 1e-4  # another candidate is another network
