"""Names, units and dtypes of the tables."""

import numpy as np
import pytest
from scipy.ndimage import zoom

from emstream.measure import dictionary, particles, rows, schema, to_physical


def ellipse_labels(shape: tuple[int, int], a: float, b: float, turn: float) -> np.ndarray:
    y, x = np.indices(shape) - np.array(shape)[:, None, None] / 2
    along, across = y * np.cos(turn) + x * np.sin(turn), x * np.cos(turn) - y * np.sin(turn)
    return ((along / a) ** 2 + (across / b) ** 2 < 1).astype(np.int32)


def test_lengths_and_areas_become_nanometres_and_say_so() -> None:
    columns = particles(ellipse_labels((80, 80), 20, 10, 0.3))
    physical = to_physical(columns, (0.5, 0.5))
    assert physical["diameter_nm"] == pytest.approx(columns["diameter"] * 0.5)
    assert physical["area_nm2"] == pytest.approx(columns["area"] * 0.25)
    assert physical["y_nm"] == pytest.approx(columns["y"] * 0.5)
    assert physical["circularity"] == pytest.approx(columns["circularity"])


def test_without_calibration_the_names_end_in_px() -> None:
    physical = to_physical(particles(ellipse_labels((80, 80), 20, 10, 0.3)), None)
    assert {"y_px", "x_px", "area_px", "diameter_px", "perimeter_px"} <= set(physical)
    assert not any("nm" in name for name in physical)


def test_oblong_pixels_give_the_shape_that_square_pixels_give() -> None:
    truth = ellipse_labels((240, 240), 60, 30, 0.7)
    squashed = zoom(truth, (0.5, 1.0), order=0)
    want = to_physical(particles(truth), (1.0, 1.0))
    got = to_physical(particles(squashed), (2.0, 1.0))
    for name in ("area_nm2", "diameter_nm", "major_nm", "minor_nm", "perimeter_nm", "circularity", "orientation"):
        assert got[name] == pytest.approx(want[name], rel=0.02), name
    assert got["x_nm"] == pytest.approx(want["x_nm"], abs=1.0)
    assert got["y_nm"] == pytest.approx(want["y_nm"], abs=1.0)


@pytest.mark.parametrize("pixel_size", [None, (0.4, 0.4)])
def test_rows_have_the_schema_and_every_column_has_a_meaning(pixel_size: tuple[float, float] | None) -> None:
    columns = particles(ellipse_labels((80, 80), 20, 10, 0.3))
    got = rows("particles", {**columns, "frame": 7, "time_s": 0.7, "track": np.array([3])}, pixel_size)
    want = schema("particles", pixel_size is not None)
    assert list(got) == list(want)
    assert {n: v.dtype for n, v in got.items()} == want
    assert got["frame"].tolist() == [7]
    for table in ("particles", "tracks", "events", "frames"):
        words = dictionary(table, pixel_size is not None)  # type: ignore[arg-type]
        assert list(words) == list(schema(table, pixel_size is not None))  # type: ignore[arg-type]
        assert all(w["meaning"] for w in words.values())
        assert all(w["unit"].startswith("nm") for n, w in words.items() if n.endswith(("_nm", "_nm2")))


def test_the_promised_columns_are_there() -> None:
    promised = {
        "particles": "frame time_s label track y_nm x_nm area_nm2 diameter_nm",
        "tracks": "track first_frame last_frame",
        "events": "frame time_s kind track other_track y_nm x_nm",
        "frames": "frame time_s shift_y_px shift_x_px confidence status particles area_fraction",
    }
    for table, names in promised.items():
        assert set(names.split()) <= set(schema(table, True)), table  # type: ignore[arg-type]


def test_no_particles_make_no_rows() -> None:
    columns = particles(np.zeros((16, 16), np.int32))
    empty = {**columns, "frame": 0, "time_s": 0.0, "track": np.empty(0, np.int64)}
    assert all(len(v) == 0 for v in rows("particles", empty, (1.0, 1.0)).values())
