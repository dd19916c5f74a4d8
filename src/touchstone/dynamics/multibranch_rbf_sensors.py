"""Three sensors that see an attractor from outside: distance and azimuth, their inverse, and a recording in time order."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from touchstone.checks import finite
from touchstone.data.chaotic_flows import CHAOS12
from touchstone.data.trajectory import trajectory

# in standard deviations of the attractor, whose points lie within 3 of the origin in each coordinate; not in line, not level
SENSORS = torch.tensor([[-7.0, -3.0, 2.0], [6.0, -6.0, -1.0], [1.0, 8.0, 0.5]], dtype=torch.float64)
RATE = 21.8  # samples a period


def sense(
    positions: Float[Tensor, "*batch 3"], sensors: Float[Tensor, "sensors 3"] = SENSORS
) -> Float[Tensor, "*batch sensors 2"]:
    """Distance and azimuth at which each sensor sees a position.

    Args:
        positions: standardised positions.
        sensors: places of the sensors.

    Returns:
        distance, and angle in the horizontal plane from the direction of the origin, counter-clockwise, in radians.

    Raises:
        ValueError: if a position is not finite.
    """
    finite(positions=positions)
    sensors = sensors.to(positions)
    seen = positions[..., None, :] - sensors
    ahead = -sensors[:, :2] / sensors[:, :2].norm(dim=1, keepdim=True)
    along = (seen[..., :2] * ahead).sum(-1)
    across = seen[..., 1] * ahead[:, 0] - seen[..., 0] * ahead[:, 1]
    return torch.stack([seen.norm(dim=-1), torch.atan2(across, along)], -1)


def locate(
    readings: Float[Tensor, "*batch sensors 2"], sensors: Float[Tensor, "sensors 3"] = SENSORS
) -> Float[Tensor, "*batch 3"]:
    """Position from the readings of at least three sensors, by linear least squares.

    Differences of squared distances and the bearings are linear in the position.

    Args:
        readings: distances and azimuths as :func:`sense` gives them.
        sensors: places of the sensors, at different heights and not in line.

    Returns:
        standardised positions; exact without noise.

    Raises:
        ValueError: if the readings are not finite or not two a sensor.
    """
    finite(readings=readings)
    if readings.shape[-2:] != (len(sensors), 2):
        raise ValueError(f"readings has shape {tuple(readings.shape)}, expected (..., {len(sensors)}, 2)")
    sensors = sensors.to(readings)
    distance, azimuth = readings.unbind(-1)
    bearing = azimuth + torch.atan2(-sensors[:, 1], -sensors[:, 0])
    across = torch.stack([bearing.sin(), -bearing.cos(), torch.zeros_like(bearing)], -1)
    apart = (2 * (sensors[1:] - sensors[:1])).expand(*distance.shape[:-1], -1, -1)
    squares = sensors.square().sum(1)
    matrix = torch.cat([across, apart], -2)
    right = torch.cat(
        [(across * sensors).sum(-1), distance[..., :1] ** 2 - distance[..., 1:] ** 2 + squares[1:] - squares[0]], -1
    )
    return torch.linalg.lstsq(matrix, right[..., None]).solution[..., 0]


@dataclass(frozen=True)
class Recording:
    """A recording of one attractor by several noisy sets of sensors, in time order.

    Args:
        positions: standardised positions.
        readings: standardised noisy readings, one set a model.
        mean: of the readings in the training span.
        std: of the readings in the training span.
        train: end of the training span; validation follows.
        valid: end of the validation span; the test span follows.
    """

    positions: Float[Tensor, "time 3"]
    readings: Float[Tensor, "models time sensors 2"]
    mean: Float[Tensor, "sensors 2"]
    std: Float[Tensor, "sensors 2"]
    train: int
    valid: int

    def sense(self, positions: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch sensors 2"]:
        """Standardised readings without noise."""
        return (sense(positions) - self.mean) / self.std


def record(attractor: str, seeds: list[int], samples: int = 36_700, noise: float = 0.01, series: int = 0) -> Recording:
    """Observe an attractor 21.8 times a period; spans of 80, 10 and 10 % in time order.

    Args:
        attractor: name of a three-dimensional system of :data:`~touchstone.data.chaotic_flows.CHAOS12`.
        seeds: one seed a model, of the noise.
        samples: length of the recording.
        noise: standard deviation of the noise, in units of each reading's own.
        series: seed of the trajectory.

    Returns:
        the recording, in float32.

    Raises:
        ValueError: if the attractor is unknown or the recording shorter than 100 samples.
    """
    if attractor not in CHAOS12 or samples < 100:
        raise ValueError(f"attractor and samples: got {attractor!r} of {sorted(CHAOS12)}, and {samples} (at least 100)")
    raw = torch.from_numpy(trajectory(CHAOS12[attractor], samples, RATE, seed=series).clean[0])
    train, valid = int(0.8 * samples), int(0.9 * samples)
    positions = (raw - raw[:train].mean(0)) / raw[:train].std(0)
    readings = sense(positions)
    mean, std = readings[:train].mean(0), readings[:train].std(0)
    readings = ((readings - mean) / std).float()
    disturbed = [
        readings + noise * torch.randn(readings.shape, generator=torch.Generator().manual_seed(2_000_003 + seed))
        for seed in seeds
    ]
    return Recording(positions.float(), torch.stack(disturbed), mean.float(), std.float(), train, valid)


def by_sensor(readings: Float[Tensor, "*batch lags sensors 2"]) -> Float[Tensor, "*batch sensors lagged"]:
    """Features of the branches: the pair of each sensor, with its earlier values if there are several lags."""
    return readings.transpose(-3, -2).flatten(-2)


def together(readings: Float[Tensor, "*batch lags sensors 2"]) -> Float[Tensor, "*batch 1 all"]:
    """Features of a single branch: all readings."""
    return readings.flatten(-3)[..., None, :]


def lagged(readings: Float[Tensor, "models time sensors 2"], lags: int) -> Float[Tensor, "models later lags sensors 2"]:
    """Readings with their predecessors, the latest first; the first samples, which have none, are dropped."""
    return torch.stack([readings[:, lags - 1 - i : readings.shape[1] - i] for i in range(lags)], 2)
