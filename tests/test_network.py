"""The network: shapes, what may and may not influence what, and the configuration's checks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from arcsolve.errors import FormatError
from arcsolve.network.block import Block, attend
from arcsolve.network.config import NetworkConfig
from arcsolve.network.device import can_compile, has_bf16
from arcsolve.network.neighbours import by_taps
from arcsolve.network.recursion import RecursiveNetwork, look_up

TINY = NetworkConfig(width=32, heads=4, hidden=64, latents=2)


def run(network: RecursiveNetwork, cells: torch.Tensor, *, steps: int = 1, seed: int = 0) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    count, height, width = cells.shape
    latents = torch.randn(1, TINY.latents, TINY.width, generator=rng).expand(count, -1, -1)
    x = network.embed(cells, torch.zeros(count, dtype=torch.long), torch.arange(10).expand(count, 10), latents)
    state = network.start(count, x.shape[1])
    for _ in range(steps):
        out = network.step(x, state, height, width)
        state = out.state
    return out.logits


def test_the_blocks_of_the_full_size_have_the_parameters_that_the_design_says() -> None:
    with torch.device("meta"):
        network = RecursiveNetwork(NetworkConfig())
    assert 6.7e6 < sum(p.numel() for p in network.blocks.parameters()) < 6.95e6


def test_samples_of_a_batch_do_not_influence_each_other() -> None:
    torch.manual_seed(0)
    network = RecursiveNetwork(TINY).eval()
    cells = torch.randint(0, 11, (3, 4, 5))
    together = run(network, cells, steps=2)
    alone = torch.cat([run(network, cells[i : i + 1], steps=2) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_positions_tell_rows_from_columns() -> None:
    """Without rotary positions (or with rows and columns mixed up) a transposed grid would give transposed logits."""
    torch.manual_seed(0)
    network = RecursiveNetwork(TINY).eval()
    for block in network.blocks:
        kernel = block.mlp.neighbours.weight
        kernel.data = (kernel.data + kernel.data.transpose(2, 3)) / 2  # the convolution alone would not tell them apart
    cells = torch.randint(0, 10, (1, 4, 4))
    flipped = run(network, cells.transpose(1, 2)).transpose(1, 2)
    assert (run(network, cells) - flipped).abs().max() > 0.05


def gradients(network: RecursiveNetwork, cells: torch.Tensor) -> list[torch.Tensor]:
    """Logits, and the gradient of every parameter that has one."""
    network.zero_grad()
    logits = run(network, cells, steps=2)
    logits.sin().sum().backward()
    return [logits.detach(), *(p.grad.clone() for p in network.parameters() if p.grad is not None)]


def test_the_convolution_by_shifts_is_the_convolution() -> None:
    """Also at the edges, beside the prefix, and in what is learned from it."""
    torch.manual_seed(0)
    network = RecursiveNetwork(TINY)
    for shape in ((2, 3, 5), (1, 4, 2), (1, 1, 1)):
        cells = torch.randint(0, 11, shape)
        network.any_canvas = False
        library = gradients(network, cells)
        network.any_canvas = True
        for mine, other in zip(gradients(network, cells), library, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)


def test_the_taps_of_the_convolution_lie_side_by_side() -> None:
    """In memory alone, and still after weights have been loaded; compiled loops over channels need it to be fast."""
    plain = torch.arange(36.0).view(4, 1, 3, 3)
    assert torch.equal(by_taps(plain), plain)
    torch.manual_seed(0)
    network = RecursiveNetwork(TINY)
    network.load_state_dict({name: value.clone().contiguous() for name, value in network.state_dict().items()})
    for block in network.blocks:
        assert block.mlp.neighbours.weight.flatten(1).t().is_contiguous()


def test_blocks_for_any_canvas_are_compiled_once() -> None:
    """A size of a canvas that gets into the code would have Triton compile fifty of them in a lent GPU's minutes."""
    torch.manual_seed(0)
    network = RecursiveNetwork(TINY)
    canvases = [torch.randint(0, 11, shape) for shape in ((2, 3, 5), (3, 5, 3), (4, 4, 4), (2, 7, 9))]
    network.any_canvas = True
    expected = [gradients(network, cells) for cells in canvases]
    compiled = 0

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> torch.fx.GraphModule:
        nonlocal compiled
        compiled += 1
        return graph

    torch._dynamo.reset()
    for module in network.modules():
        if isinstance(module, Block):
            module.compile(dynamic=True, backend=backend)
    for cells, known in zip(canvases, expected, strict=True):
        for mine, other in zip(gradients(network, cells), known, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)
    assert compiled == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("shape", [(2, 3, 5), (3, 9, 7), (1, 1, 1)])
def test_the_kernel_adds_neighbours_as_the_plain_code_does(shape: tuple[int, int, int]) -> None:
    """Sums and both gradients, with channels and tokens that fill no tile."""
    from arcsolve.network import neighbours, neighbours_kernel

    count, height, width = shape
    rng = torch.Generator()
    window = neighbours.grid_window(height, width, 27, torch.device("cuda"))
    found = []
    for add in (neighbours.add_neighbours, neighbours_kernel.add_neighbours):
        rng.manual_seed(0)
        z, weight, gradient = (
            torch.randn(size, generator=rng).cuda().requires_grad_()
            for size in ((count, 27 + height * width, 70), (70, 1, 3, 3), (count, 27 + height * width, 70))
        )
        out = add(z, weight, width, window)
        out.backward(gradient.detach())
        found.append((out, z.grad, weight.grad))
    for plain, kernel in zip(*found, strict=True):
        torch.testing.assert_close(plain, kernel, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_learns_a_table_as_a_cpu_does() -> None:
    rng = torch.Generator().manual_seed(0)
    table, index = torch.randn(11, 8, generator=rng), torch.randint(11, (5, 7), generator=rng)
    weights = torch.randn(5, 7, 8, generator=rng)
    found = []
    for device in ("cpu", "cuda"):
        learned = table.to(device).requires_grad_()
        rows = look_up(learned, index.to(device))
        (rows * weights.to(device)).sum().backward()
        assert learned.grad is not None
        found.append((rows.detach().cpu(), learned.grad.cpu()))
    for mine, other in zip(*found, strict=True):
        torch.testing.assert_close(mine, other)


def test_no_gradient_flows_from_the_halting_head_into_the_trunk() -> None:
    network = RecursiveNetwork(TINY)
    torch.nn.init.ones_(network.halt.weight)
    x = network.embed(
        torch.zeros(1, 3, 3, dtype=torch.long),
        torch.zeros(1, dtype=torch.long),
        torch.arange(10)[None],
        torch.randn(1, TINY.latents, TINY.width),
    )
    out = network.step(x, network.start(1, x.shape[1]), 3, 3)
    out.halting.sum().backward()
    assert network.halt.weight.grad is not None
    assert all(p.grad is None for p in network.blocks.parameters())


def test_flop_follow_the_number_of_function_calls() -> None:
    config = NetworkConfig()
    assert config.step_flop(203, inner_steps=4) == pytest.approx(2.5 * config.step_flop(203, inner_steps=1))
    # Six FLOP a parameter and token for a training step of two calls, and some for attention and convolution.
    assert 1.0 < 3 * config.step_flop(184) / (6 * 2 * 6.8e6 * (184 + config.prefix)) < 1.25


def test_a_configuration_from_a_newer_version_is_refused_by_name() -> None:
    with pytest.raises(FormatError, match=r"w\.safetensors: unknown network setting 'mixture'"):
        NetworkConfig.from_json({**TINY.to_json(), "mixture": 4}, "w.safetensors")


def test_random_starts_and_noise_reach_the_answer() -> None:
    torch.manual_seed(0)
    network = RecursiveNetwork(TINY).eval()
    x = torch.randn(1, TINY.prefix + 9, TINY.width)
    noise = torch.randn_like(x)
    plain = network.step(x, network.start(1, x.shape[1]), 3, 3).logits
    assert not np.allclose(plain.detach(), network.step(x, network.start(1, x.shape[1]), 3, 3, noise).logits.detach())
    assert not np.allclose(plain.detach(), network.step(x, network.start(1, x.shape[1], noise), 3, 3).logits.detach())


def test_attention_is_the_same_with_and_without_gradients() -> None:
    """On a CPU training multiplies the products out, since the fused kernel's backward pass is slow there."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, 7, 8, generator=generator) for _ in range(3))
    with torch.no_grad():
        fused = attend(q, k, v)
    torch.testing.assert_close(attend(q, k, v), fused)


def test_what_starts_as_if_it_were_not_there_changes_nothing() -> None:
    plain = NetworkConfig(width=16, heads=2, hidden=32, latents=2)
    torch.manual_seed(0)
    network = RecursiveNetwork(plain)
    more = RecursiveNetwork(replace(plain, copy=True, hints=True))
    more.load_state_dict(network.state_dict(), strict=False)
    cells, latents = torch.randint(0, 11, (2, 4, 3)), torch.randn(2, 2, 16)
    dihedral, colours = torch.tensor([1, 6]), torch.arange(10).expand(2, 10)
    hint = (cells, torch.ones_like(cells, dtype=torch.bool))
    one = network.embed(cells, dihedral, colours, latents)
    two = more.embed(cells, dihedral, colours, latents, hint)
    state = network.start(2, one.shape[1])
    torch.testing.assert_close(network.step(one, state, 4, 3).logits, more.step(two, state, 4, 3).logits)
    with torch.no_grad():
        more.copy.fill_(1.0)  # type: ignore[union-attr]
    assert not torch.allclose(network.step(one, state, 4, 3).logits, more.step(two, state, 4, 3).logits)


def test_without_the_convolution_cells_see_each_other_through_attention_alone() -> None:
    config = NetworkConfig(width=16, heads=2, hidden=32, latents=2, convolution=False)
    network = RecursiveNetwork(config)
    assert not any("neighbours" in name for name, _ in network.named_parameters())
    assert config.step_flop(9) < replace(config, convolution=True).step_flop(9)
    x = network.embed(
        torch.zeros(1, 3, 3, dtype=torch.long), torch.tensor([0]), torch.arange(10)[None], torch.randn(1, 2, 16)
    )
    assert network.step(x, network.start(1, x.shape[1]), 3, 3).logits.shape == (1, 3, 3, 11)


@pytest.mark.parametrize(
    ("capable", "bf16"),
    [({"amx_bf16": True}, True), ({"avx512_bf16": True}, True), ({"avx512_f": True}, False), ({}, False)],
)
def test_bfloat16_is_for_processors_that_multiply_it(
    capable: dict[str, bool], bf16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capable, raising=False)
    assert has_bf16(torch.device("cpu")) == bf16


def test_without_a_compiler_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert not can_compile(torch.device("cpu"))
