"""ODENet: a residual network whose depth is the time of a differential equation (Chen et al., 2018)."""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import linen
from jaxtyping import Array, Float, Num

from dljax.core.checks import check_int
from dljax.nn.convolution import Conv
from dljax.nn.dense import Dense, unit_pixels
from dljax.nn.normalisation import GroupNorm
from dljax.nn.ode import ODEBlock, ODEConfig, ODESolution


class ODENet(linen.Module):
    """A stem that shrinks the picture, one block of continuous depth in the place of all residual blocks, and the logits.

      [B, H, W, C] → convolution → (norm → ReLU → convolution) for each further stride → h(0)
      dh/dt = norm(conv(t, relu(norm(conv(t, relu(norm(h)))))))   →   h(1) → norm → ReLU → mean over pixels → logits [B, K]

    conv(t, ·) is a 3×3 convolution that sees the time as one more channel. With 10 classes, 64 channels and pictures of one channel there are
    208,266 parameters.

    Attributes:
      num_classes: K.
      width: channels of all convolutions.
      strides: of the stem's convolutions, each 1 (3×3, no padding) or 2 (4×4, padding of one). (2, 2) skips the work on the full picture, which is
        more than that of the differential equation.
      num_groups: of the group norms, at most; as many as divide the channels. The paper's 32 leave groups of two channels.
      config: solver, tolerances and adjoint; the paper's tolerance is 1e-3, and its adjoint "continuous".
      num_extra: channels of zeros that are appended to h(0) (ANODE).

    Source: Chen, Rubanova, Bettencourt and Duvenaud (2018), Neural Ordinary Differential Equations, section 3, and the program
    `odenet_mnist.py` that comes with it; Dupont et al. (2019), Augmented Neural ODEs.

    >>> import jax
    >>> net = ODENet(10, width=8, config=ODEConfig("euler", num_steps=1))
    >>> logits, variables = jax.jit(net.init_with_output)(jax.random.key(0), jnp.zeros((2, 28, 28, 1), jnp.uint8))
    >>> logits.shape, sorted(variables["params"])
    ((2, 10), ['block', 'head', 'head_norm', 'stem_convs_0', 'stem_convs_1', 'stem_convs_2', 'stem_norms_0', 'stem_norms_1'])
    """

    num_classes: int
    width: int = 64
    strides: Sequence[int] = (1, 2, 2)
    num_groups: int = 32
    config: ODEConfig = ODEConfig(rtol=1e-3, atol=1e-3)
    num_extra: int = 0

    def setup(self) -> None:
        for name in ("num_classes", "width", "num_groups"):
            check_int("ODENet", name, getattr(self, name), minimum=1)
        if not self.strides or set(self.strides) - {1, 2}:
            raise ValueError(f"ODENet: strides must be one or more numbers, each 1 or 2, got {self.strides}")
        self.block = ODEBlock(_Field(self.num_groups), self.config, num_extra=self.num_extra)
        self.stem_convs = [Conv(self.width, (2 + s, 2 + s), strides=s, padding=s - 1) for s in self.strides]
        self.stem_norms = [_norm(self.num_groups, self.width) for _ in self.strides[1:]]
        self.head_norm = _norm(self.num_groups, self.width + self.num_extra)
        self.head = Dense(self.num_classes)

    def __call__(self, x: Num[Array, "B H W C"]) -> Float[Array, "B K"]:
        """Logits of each class; NaN where the solver failed.

        Args:
          x: pictures, uint8 in 0 ... 255 or floats, so large that the stem leaves a pixel.
        Raises:
          ValueError: pictures too small; a size < 1; strides other than 1 and 2.
        """
        h = linen.relu(self.head_norm(self.block(self.stem(x))))
        return self.head(h.mean((1, 2)))

    def stem(self, x: Num[Array, "B H W C"]) -> Float[Array, "B h w D"]:
        """The features h(0)."""
        smallest = 1
        for stride in reversed(self.strides):
            smallest = smallest + 2 if stride == 1 else 2 * smallest
        if x.ndim != 4 or min(x.shape[1:3]) < smallest:
            raise ValueError(f"ODENet: x must be pictures [B, H, W, C] of at least {smallest} x {smallest} (strides={self.strides}), got {x.shape}")
        first, *others = self.stem_convs
        x = first(unit_pixels(x))
        for norm, conv in zip(self.stem_norms, others, strict=True):
            x = conv(linen.relu(norm(x)))
        return x

    def trajectory(self, x: Num[Array, "B H W C"], times: Float[Array, " T"] | Sequence[float]) -> ODESolution:
        """The features h(t) on their way through the block: `net.apply(variables, x, times, method="trajectory")`.

        Args:
          times: at least two; the first is that of h(0), and 1 the one that the head reads.
        Returns:
          The solution, with `states` [T, B, h, w, D] and what it took.
        """
        return self.block.trajectory(self.stem(x), times)


class _Field(linen.Module):
    num_groups: int

    @linen.compact
    def __call__(self, h: Float[Array, "B H W C"], t: Float[Array, ""]) -> Float[Array, "B H W C"]:
        width = h.shape[-1]
        for number in range(2):
            h = linen.relu(_norm(self.num_groups, width, f"norm_{number}")(h))
            clock = jnp.broadcast_to(t.astype(h.dtype), (*h.shape[:-1], 1))
            h = Conv(width, (3, 3), padding=1, name=f"conv_{number}")(jnp.concatenate([clock, h], -1))
        return _norm(self.num_groups, width, "norm_2")(h)


def _norm(num_groups: int, width: int, name: str | None = None) -> linen.Module:
    groups = max(number for number in range(1, min(num_groups, width) + 1) if width % number == 0)
    return GroupNorm(groups, epsilon=1e-5, name=name)
