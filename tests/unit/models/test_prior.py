import pytest
import torch

from agi_core.models.agi_net import build_model
from agi_core.models.model_config import ModelConfig
from agi_core.models.prior import Prior, monomial_count, monomials


def test_the_monomials_of_two_sources_by_hand() -> None:
    sources = torch.tensor([2.0, 3.0]).reshape(1, 2, 1, 1)
    assert monomials(sources).flatten().tolist() == [1, 2, 3, 4, 6, 9, 8, 12, 18, 27]


@pytest.mark.parametrize(("sources", "count"), [(1, 4), (2, 10), (3, 20)])
def test_their_number(sources: int, count: int) -> None:
    assert monomial_count(sources) == count
    assert monomials(torch.rand(2, sources, 3, 4, 5)).shape == (2, count, 3, 4, 5)


def test_the_prior_is_their_weighted_sum_and_gets_no_gradient() -> None:
    prior, sources = Prior(1), torch.tensor([0.5, 2.0]).reshape(1, 1, 2)
    assert not prior(sources).any()
    prior.coefficients.copy_(torch.tensor([1.0, 2.0, 0.0, 4.0]))
    assert prior(sources).flatten().tolist() == [1 + 2 * 0.5 + 4 * 0.125, 1 + 2 * 2 + 4 * 8]
    assert not prior.coefficients.requires_grad


@pytest.mark.parametrize(("dims", "space"), [(2, (8, 12)), (3, (4, 8, 8))])
@pytest.mark.parametrize("kind", ["none", "cubic"])
def test_a_prediction_is_the_readout_of_the_features(dims: int, space: tuple[int, ...], kind: str) -> None:
    model = build_model(ModelConfig(dims=dims, widths=(8, 8), prior=kind), sources=2)
    assert (model.readout != 0).any() == (kind == "none")  # with a prior a new network predicts 0
    sources, readout = torch.rand(2, 2, *space), torch.randn(len(model.readout))
    model.set_readout(readout)
    torch.testing.assert_close(model.readout, readout)
    features = model.features(sources)
    torch.testing.assert_close(model(sources)[:, 0], torch.einsum("f,bf...->b...", readout, features))
    assert features.shape[1] == (10 if kind == "cubic" else 1) + 8
    torch.testing.assert_close(model.prior_features(sources), features[:, :-8])


def test_the_prior_sees_aligned_sources_and_the_body_starts_as_without_it() -> None:
    config = ModelConfig(widths=(8, 8), alignment="global")
    model = build_model(ModelConfig(**vars(config) | {"prior": "cubic"}), sources=2)
    sources = torch.rand(1, 2, 32, 32)
    torch.testing.assert_close(model.prior_features(sources), monomials(model.alignment(sources)))
    plain = build_model(config, sources=2).state_dict()
    state = model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in plain.items() if not name.startswith("head."))
    assert set(state) - set(plain) == {"prior.coefficients", "prior.gram"}
