"""Losses against the metrics, their gradients against finite differences and plain autograd."""

import numpy as np
import pytest
import torch

from hybridsolve.score import losses, metrics

NAN = float("nan")
SERIES = losses.names(per_series=True)
METRIC = {name: getattr(metrics, name) for name in SERIES}


def flows(days=60, basins=3, starts=None, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    obs = torch.rand(days, basins, generator=g, dtype=torch.float64) ** 3 * 10
    obs[torch.rand(days, basins, generator=g) < 0.05] = 0.0
    shape = (days, basins) if starts is None else (days, basins, starts)
    like = obs if starts is None else obs[..., None]
    sim = like * (0.5 + torch.rand(shape, generator=g, dtype=torch.float64)) + 0.1
    obs[torch.rand(days, basins, generator=g) < 0.1] = NAN
    return sim.to(dtype), obs.to(dtype)


def make(name, obs, **kwargs):
    extra = (torch.full((obs.shape[1],), 2.0),) if name == "nse_batch" else ()
    return losses.get(name)(obs, *extra, **kwargs)


def test_names():
    assert losses.names() == ["nse", "kge", "nse_sqrt", "nse_log", "rmse_comb", "nse_batch"]
    assert losses.names(per_series=False) == ["rmse_comb", "nse_batch"]
    with pytest.raises(ValueError, match="nse, kge.*found 'mse'"):
        losses.get("mse")


@pytest.mark.parametrize("name", SERIES)
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-11), (torch.float32, 2e-5)])
def test_equals_the_metric(name, dtype, rtol, monkeypatch):
    monkeypatch.setattr(losses, "_SLICE", 5000)
    sim, obs = flows(1000, 12, 4, dtype)
    assert len(losses.get(name)(obs)._walk(4)) == 10
    value = losses.get(name)(obs)(sim)
    assert value.shape == (12, 4) and value.dtype == dtype
    for c in range(4):
        want = 1 - METRIC[name](sim[..., c].numpy(), obs.numpy())
        np.testing.assert_allclose(value[:, c].numpy(), want, rtol=rtol)
        np.testing.assert_allclose(losses.get(name)(obs)(sim[..., c]).numpy(), want, rtol=rtol)


@pytest.mark.parametrize("name", losses.names())
@pytest.mark.parametrize("starts", [None, 1, 2])
def test_gradcheck_with_missing_days(name, starts):
    sim, obs = flows(12, 2, starts)
    assert torch.isnan(obs).any()
    assert torch.autograd.gradcheck(make(name, obs), (sim.requires_grad_(True),))


@pytest.mark.parametrize("name", SERIES)
def test_slices_do_not_matter(name, monkeypatch):
    sim, obs = flows(50, 3, 2)
    sim.requires_grad_(True)
    weight = torch.rand(3, 2, dtype=torch.float64)
    whole = losses.get(name)(obs)(sim)
    (d_whole,) = torch.autograd.grad((whole * weight).sum(), sim)
    for size in (1, 7 * 6, 13 * 6 + 1):
        monkeypatch.setattr(losses, "_SLICE", size)
        value = losses.get(name)(obs)(sim)
        (d_value,) = torch.autograd.grad((value * weight).sum(), sim)
        torch.testing.assert_close(value, whole, rtol=1e-13, atol=0)
        torch.testing.assert_close(d_value, d_whole, rtol=1e-12, atol=1e-16)


@pytest.mark.parametrize("name", losses.names())
def test_missing_days_have_zero_gradient_even_where_sim_is_nan(name):
    sim, obs = flows(40, 3, 2)
    clean = sim.clone().requires_grad_(True)
    dirty = torch.where(torch.isnan(obs)[..., None], NAN, sim).requires_grad_(True)
    loss = make(name, obs)
    a, b = loss(clean), loss(dirty)
    a.sum().backward()
    b.sum().backward()
    torch.testing.assert_close(a, b, rtol=0, atol=0)
    torch.testing.assert_close(clean.grad, dirty.grad, rtol=0, atol=0)
    assert (clean.grad[torch.isnan(obs)] == 0).all() and (clean.grad[~torch.isnan(obs)] != 0).any()


@pytest.mark.parametrize("name", SERIES)
def test_nan_on_a_valid_day_is_loud_and_stays_in_its_series(name):
    sim, obs = flows(40, 3, 2)
    day = int((~torch.isnan(obs[:, 1])).nonzero()[0, 0])
    sim[day, 1, 0] = NAN
    sim.requires_grad_(True)
    value = losses.get(name)(obs)(sim)
    value.sum().backward()
    bad = torch.zeros(3, 2, dtype=torch.bool)
    bad[1, 0] = True
    assert torch.equal(torch.isnan(value), bad)
    assert torch.equal(torch.isnan(sim.grad).any(0), bad)


@pytest.mark.parametrize("name", ["rmse_comb", "nse_batch"])
def test_nan_on_a_valid_day_is_loud_in_a_batch(name):
    sim, obs = flows()
    sim[int((~torch.isnan(obs[:, 1])).nonzero()[0, 0]), 1] = NAN
    assert torch.isnan(make(name, obs)(sim))


def test_series_are_independent():
    sim, obs = flows(40, 3, 2)
    sim.requires_grad_(True)
    for name in SERIES:
        (d,) = torch.autograd.grad(losses.get(name)(obs)(sim)[2, 1], sim)
        d = d.clone()
        assert (d[:, 2, 1] != 0).any()
        d[:, 2, 1] = 0
        assert (d == 0).all()


@pytest.mark.parametrize("name", SERIES)
def test_weights_retained_graph_and_strides(name):
    sim, obs = flows(40, 3, 2)
    # [B, C, T] in memory: nothing may be read as if it were contiguous.
    sim = sim.permute(1, 2, 0).contiguous().permute(2, 0, 1).requires_grad_(True)
    value = losses.get(name)(obs)(sim)
    (once,) = torch.autograd.grad(value.sum(), sim, retain_graph=True)
    (again,) = torch.autograd.grad(value.sum(), sim, retain_graph=True)
    (thrice,) = torch.autograd.grad(3 * value.sum(), sim)
    dense = sim.detach().contiguous().requires_grad_(True)
    (want,) = torch.autograd.grad(losses.get(name)(obs)(dense).sum(), dense)
    for got, factor in ((once, 1), (again, 1), (thrice, 3)):
        torch.testing.assert_close(got, factor * want, rtol=1e-14, atol=0)


@pytest.mark.parametrize("name", SERIES)
def test_no_gradient_asked_for_gives_the_same_value(name):
    sim, obs = flows(40, 3, 2)
    loss = losses.get(name)(obs)
    with torch.no_grad():
        quiet = loss(sim.clone().requires_grad_(True))
    assert not quiet.requires_grad
    assert torch.equal(quiet, loss(sim.clone().requires_grad_(True)).detach())


def test_kge_of_a_constant_simulation():
    _, obs = flows(40, 3)
    for dtype in (torch.float32, torch.float64):
        sim = torch.full((40, 3), 0.7, dtype=dtype, requires_grad=True)
        value = losses.KGE(obs, dtype=dtype)(sim)
        np.testing.assert_allclose(
            value.detach().numpy(), 1 - metrics.kge(sim.detach().numpy(), obs.numpy()), rtol=1e-6
        )
        value.sum().backward()
        mask = ~torch.isnan(obs)
        mean = torch.where(mask, obs, 0).sum(0) / mask.sum(0)
        # r = alpha = 0, so only beta is left: d = (beta - 1) / (E n mean) on each valid day.
        beta = 0.7 / mean
        d = (beta - 1) / (torch.sqrt(2 + (beta - 1) ** 2) * mask.sum(0) * mean)
        torch.testing.assert_close(sim.grad.double(), mask * d, rtol=1e-5, atol=0)


def test_kge_in_float32_of_a_large_base_flow():
    # A standard deviation of 1 on a flow of 500: the plain second moment would keep few digits of it.
    sim, obs = flows(3000, 2, dtype=torch.float64)
    sim, obs = (sim + 500).float(), (obs + 500).float()
    want = 1 - metrics.kge(sim.numpy(), obs.numpy())
    np.testing.assert_allclose(losses.KGE(obs)(sim).numpy(), want, rtol=1e-4)


@pytest.mark.parametrize("name", losses.names())
def test_perfect_simulation(name):
    _, obs = flows()
    sim = torch.nan_to_num(obs).requires_grad_(True)
    value = make(name, obs)(sim)
    value.sum().backward()
    assert value.detach().abs().max() < 1e-7
    assert torch.isfinite(sim.grad).all()


def test_rmse_comb_by_hand():
    obs = torch.tensor([[1.0, NAN], [4.0, 0.0]], dtype=torch.float64)
    sim = torch.tensor([[1.0, 9.0], [9.0, 0.0]], dtype=torch.float64)
    # Three valid days, one differs: 4 and 9, roots 2 and 3 (the 1e-6 inside changes the seventh digit).
    log = np.log10(3.1 / 2.1) / np.sqrt(3)
    assert losses.RmseComb(obs, alpha=0.4)(sim).item() == pytest.approx(0.6 * 5 / np.sqrt(3) + 0.4 * log, rel=1e-6)
    assert losses.RmseComb(obs, alpha=0.0)(sim).item() == pytest.approx(5 / np.sqrt(3))
    both = losses.RmseComb(obs)(sim[..., None].expand(2, 2, 3))
    assert both.item() == pytest.approx(losses.RmseComb(obs)(sim).item(), rel=1e-12)


def test_nse_batch_by_hand():
    obs = torch.tensor([[1.0, NAN], [4.0, 0.0]], dtype=torch.float64)
    sim = torch.tensor([[2.0, 9.0], [4.0, 3.0]], dtype=torch.float64)
    value = losses.NSEBatch(obs, torch.tensor([0.4, 1.4]), eps=0.1)(sim)
    assert value.item() == pytest.approx((1 / 0.25 + 0 + 9 / 2.25) / 3, rel=1e-6)


def test_a_basin_without_observations_may_be_in_a_batch():
    sim, obs = flows(20, 3)
    obs[:, 1] = NAN
    keep = [0, 2]
    sigma = torch.tensor([1.0, NAN, 2.0])
    assert losses.NSEBatch(obs, sigma)(sim).item() == pytest.approx(
        losses.NSEBatch(obs[:, keep], sigma[keep])(sim[:, keep]).item(), rel=1e-12
    )
    assert losses.RmseComb(obs)(sim).item() == pytest.approx(
        losses.RmseComb(obs[:, keep])(sim[:, keep]).item(), rel=1e-12
    )
    with pytest.raises(losses.UnusableObservations):
        losses.RmseComb(torch.full_like(obs, NAN))
    with pytest.raises(ValueError, match="sigma.*basin 2"):
        losses.NSEBatch(obs, torch.tensor([1.0, 1.0, NAN]))


@pytest.mark.parametrize("name", SERIES)
def test_unusable_basins_are_named(name):
    _, obs = flows(20, 4)
    empty, constant = obs.clone(), obs.clone()
    empty[:, 2] = NAN
    constant[:, 1] = constant[:, 3] = 0.1
    with pytest.raises(losses.UnusableObservations, match="at least one step.*basin 2") as e:
        losses.get(name)(empty)
    assert e.value.basins == [2] and isinstance(e.value, ValueError)
    with pytest.raises(losses.UnusableObservations, match=r"variance.*2 basins \(1, 3\)") as e:
        losses.get(name)(constant)
    assert e.value.basins == [1, 3]


def test_errors_name_the_thing():
    sim, obs = flows(20, 3)
    obs0, loss = obs, losses.get("nse")(obs)
    with pytest.raises(ValueError, match="T = 20 and B = 3"):
        loss(sim[1:])
    with pytest.raises(TypeError, match="float64.*float32"):
        loss(sim.float())
    with pytest.raises(ValueError, match="constant"):
        losses.get("nse")(obs.clone().requires_grad_(True))
    with pytest.raises(ValueError, match="step 4 in basin 1"):
        obs = obs.clone()
        obs[4, 1] = torch.inf
        losses.get("nse")(obs)
    with pytest.raises(TypeError, match="tensor"):
        loss(sim.numpy())
    masked = np.ma.masked_invalid(obs0.numpy())
    with pytest.raises(TypeError, match=r"obs must be a torch tensor, found a masked array: write .*np\.ma\.filled"):
        losses.get("nse")(masked)
    with pytest.raises(ValueError, match="sigma must be finite, .* found nan .* in basin 1"):
        losses.NSEBatch(obs0, np.ma.masked_equal([1.0, 9.0, 2.0], 9.0))


def test_second_derivative_is_refused():
    sim, obs = flows(20, 3)
    sim.requires_grad_(True)
    (d,) = torch.autograd.grad((losses.get("nse")(obs)(sim) * 2).sum(), sim, create_graph=True)
    with pytest.raises(RuntimeError):
        d.sum().backward()
