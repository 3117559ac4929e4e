"""The endless family of digit domains: all pixels turned by a random orthogonal matrix."""

import math

import pytest
import torch

import wbench as wb
from wbench.tasks import DigitDomains, Digits
from wbench.tasks.digit_domains import OTHERS, pixel_rotation

FAMILY = {"domain": "rotated_pixels"}


def part(task, name="test", seed=0):
    return task.data(seed)[name].tensors


@pytest.mark.parametrize("angle", [0.0, 1.5, 3.0])
def test_rotations_are_orthogonal_with_largest_angle_as_said(angle):
    turn = pixel_rotation(3, 5, angle)
    eye = torch.eye(64, dtype=torch.float64)
    assert torch.allclose(turn @ turn.T, eye, atol=1e-12) and float(torch.linalg.det(turn)) == pytest.approx(1.0)
    angles = torch.linalg.eigvals(turn).angle().abs()
    assert float(angles.max()) == pytest.approx(angle, abs=1e-7)


def test_a_domain_is_the_digits_turned_by_the_matrix_of_seed_and_index():
    images, digits = part(DigitDomains(index=2, strength=2.0, **FAMILY), seed=4)
    plain, labels = part(Digits(), seed=4)
    expected = plain.flatten(1).double() @ pixel_rotation(4, 2, 2.0).T
    assert torch.allclose(images.flatten(1).double(), expected, atol=1e-6) and torch.equal(digits, labels)
    assert torch.allclose(images.flatten(1).norm(dim=1), plain.flatten(1).norm(dim=1), atol=1e-5)
    for other in (DigitDomains(index=3, strength=2.0, **FAMILY), DigitDomains(index=2, strength=1.0, **FAMILY)):
        assert not torch.allclose(images, part(other, seed=4)[0], atol=0.1)


def test_test_splits_of_many_domains_are_those_of_the_domains():
    splits = DigitDomains(domains=3, **FAMILY).data(1)
    assert [name for name in splits if name.startswith("domain")] == ["domain0", "domain1", "domain2"]
    for index in range(3):
        assert splits[f"domain{index}"].checksum() == DigitDomains(index=index, **FAMILY).data(1)["test"].checksum()


def test_a_base_is_trained_on_the_digits_and_on_domains_that_no_fine_tune_has():
    base, plain = DigitDomains(domain="identity", extra_domains=2), part(Digits(), "train")
    images, digits = part(base, "train")
    assert len(images) == 3 * len(plain[0]) and torch.equal(digits, plain[1].repeat(3))
    assert torch.equal(images[:1000], plain[0])
    for place in (0, 1):
        turned = plain[0].flatten(1).double() @ pixel_rotation(0, OTHERS + place, 1.5).T
        assert torch.allclose(images[1000 * (place + 1) :][:1000].flatten(1).double(), turned, atol=1e-6)
    far = part(DigitDomains(domain="identity", extra_domains=1, strength=3.0), "train")[0]
    turned = plain[0].flatten(1).double() @ pixel_rotation(0, OTHERS, 3.0).T
    assert torch.allclose(far[1000:].flatten(1).double(), turned, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"domain": "rotated_pixels", "strength": 7.0}, "strength=7.0 does not fit 'rotated_pixels'; allowed: a number from 0 to 6"),
        ({"domain": "shift", "extra_domains": 2}, "extra_domains=2 does not fit 'shift'"),
        ({"domain": "fog", "domains": 2}, "domains=2 does not fit 'fog'"),
        ({"domain": "identity", "strength": 1.0}, "strength=1.0 does not fit 'identity'"),
        ({"domain": "rotated_pixels", "index": OTHERS}, "index=1000 is out of range"),
    ],
)  # fmt: skip
def test_options_that_do_not_fit_are_refused(options, words):
    with pytest.raises(wb.WBenchError, match=words):
        DigitDomains(**options)


def test_an_angle_of_pi_is_within_reach():
    assert math.isfinite(float(part(DigitDomains(strength=math.pi, **FAMILY))[0].sum()))
