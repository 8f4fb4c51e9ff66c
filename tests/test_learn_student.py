"""Learning without labels: neighbours teach, masks are chosen, crops have no black corners, the gate refuses what is worse."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr

from emstream import simulate
from emstream.errors import JobFailed
from emstream.learn import LearnOptions, gate, lessons, train
from emstream.learn.candidate import calibrate
from emstream.learn.candidates import best_level, candidates
from emstream.learn.crops import ROW, CropSet, crops_of, thinned
from emstream.learn.evaluate import overlap
from emstream.learn.labels import Labels
from emstream.learn.lessons import Record, worth_learning
from emstream.learn.material import Material, as_shown, opened, others, sealed, spread_in_time, survey
from emstream.learn.suggest import spread_out
from emstream.learn.teacher import Lesson
from emstream.segment import SegmentOptions
from emstream.segment.unet import UNet

OPTIONS = LearnOptions(
    crop_px=64, crops=3, frames=10, neighbours=3, epochs=2, steps_per_epoch=4, batch=2, simulated=0.0
)


@pytest.fixture(scope="module")
def scene() -> simulate.Movie:
    return simulate.movie(14, (160, 160), particles=7, diameter=(14, 26), contrast=(0.3, 0.4), dose=12, seed=3)


@pytest.fixture(scope="module")
def movie(scene: simulate.Movie, tmp_path_factory: pytest.TempPathFactory) -> Material:
    path = tmp_path_factory.mktemp("movie") / "movie.npy"
    np.save(path, scene.frames)
    return survey(path)


def disc(shape: tuple[int, int], y: float, x: float, r: float) -> np.ndarray:
    yy, xx = np.ogrid[: shape[0], : shape[1]]
    return np.hypot(yy - y, xx - x) < r


def test_the_level_that_fits_a_rough_belief_best_is_found_for_dark_and_for_bright() -> None:
    truth = disc((120, 120), 60, 50, 20)
    grey = np.where(truth, 0.3, 0.8).astype(np.float32) + np.random.default_rng(0).normal(0, 0.05, truth.shape)
    belief = np.where(disc((120, 120), 62, 51, 22), 0.7, 0.1).astype(np.float32)
    for image, dark in ((grey, True), (-grey, False)):
        level, found_dark, agreement = best_level(image.astype(np.float32), belief)
        assert found_dark is dark
        assert overlap((image < level) if dark else (image > level), truth)[0] > 0.97
        assert 0.2 < agreement < 1  # the belief is hazy everywhere


def test_the_chosen_mask_is_sharper_than_the_belief_that_chose_it() -> None:
    truth = disc((128, 128), 60, 60, 18) | disc((128, 128), 90, 100, 14)
    image = np.random.default_rng(1).poisson(np.where(truth, 20, 40)).astype(np.float32)
    belief = np.where(disc((128, 128), 62, 61, 21) | disc((128, 128), 91, 98, 17), 0.8, 0.05).astype(np.float32)
    chosen = candidates(image, belief)[0]
    assert overlap(chosen.mask, truth)[0] > overlap(belief > 0.5, truth)[0] + 0.1


def test_a_movies_drift_is_found_and_neighbours_show_the_frame_without_its_own_noise(
    movie: Material, scene: simulate.Movie
) -> None:
    assert movie.at is not None
    with opened(movie) as read:
        shown = others(movie, read, 6, 3)
        own = read(6).astype(np.float32)
    assert shown is not None
    there = np.isfinite(shown)
    clean = scene.clean(6) * scene.dose
    noise, seen = (own - clean)[there], (shown - clean)[there]
    assert abs(np.corrcoef(noise, seen)[0, 1]) < 0.05
    assert seen.std() < 0.6 * noise.std()


def test_few_electrons_are_learned_as_the_daemon_shows_them_too_on_the_frames_own_pixels(tmp_path: Path) -> None:
    dim = simulate.movie(9, (256, 256), particles=20, diameter=(14, 26), contrast=(0.3, 0.4), dose=5, seed=3)
    np.save(tmp_path / "dim.npy", dim.frames)
    material = survey(tmp_path / "dim.npy")
    with opened(material) as read:
        shown, own = as_shown(material, read, 6), read(6)
    assert shown is not None
    assert shown.mean() == pytest.approx(4 * own.mean(), rel=0.02)  # 20 electrons come together
    particles = dim.labels(6) > 0
    apart = [float((a[~particles].mean() - a[particles].mean()) / a[~particles].std()) for a in (shown, own)]
    assert apart[0] > 1.6 * apart[1]
    made = lessons.make(material, 0, 6, False, dim.labels(6), "nobody", str(tmp_path), OPTIONS)
    again = lessons.again(made.path)
    assert again.added is not None
    assert np.array_equal(again.added, shown)
    rows = crops_of(again, 40, OPTIONS, (1,)).rows
    assert 10 < rows["added"].sum() < 30


def test_pictures_of_different_places_are_not_taken_for_a_movie(tmp_path: Path) -> None:
    places = [simulate.movie(1, (160, 160), particles=9, diameter=(10, 18), dose=20, seed=40 + k) for k in range(9)]
    np.save(tmp_path / "places.npy", np.concatenate([p.frames for p in places]))
    assert survey(tmp_path / "places.npy").at is None


def test_enough_electrons_are_learned_frame_by_frame_alone(tmp_path: Path) -> None:
    bright = simulate.movie(6, (160, 160), particles=7, diameter=(14, 26), dose=40, seed=3)
    np.save(tmp_path / "bright.npy", bright.frames)
    material = survey(tmp_path / "bright.npy")
    with opened(material) as read:
        assert as_shown(material, read, 5) is None
    pictures = Material("a", "pictures", (0, 1))
    assert as_shown(pictures, bright.frames.__getitem__, 1) is None


def test_a_frame_that_the_camera_gave_twice_is_left_out_and_new_noise_is_not() -> None:
    rng = np.random.default_rng(2)
    still = np.full((64, 64), 20.0)
    frames = [rng.poisson(still) for _ in range(3)]
    stack = [frames[0], frames[0], frames[1], frames[2], frames[2]]
    some = Material("movie", "movie", (0, 1, 2, 3, 4), at=np.zeros((5, 2)))
    assert spread_in_time(some, stack.__getitem__, 10) == (0, 2, 3)


def test_a_stretch_of_time_is_set_aside_and_whole_runs_when_there_are_many() -> None:
    one = Material("a", "movie", tuple(range(40)))
    assert sealed([one], [one.frames], 0.15) == [set(range(34, 40))]
    many = [Material(f"run{i}", "run", tuple(range(10))) for i in range(20)]
    shut = sealed(many, [m.frames for m in many], 0.3)
    assert {len(s) for s in shut} == {0, 10}


def test_crops_have_no_black_corners_carry_their_labels_and_are_the_same_for_a_seed() -> None:
    image = np.random.default_rng(3).poisson(50, (200, 180)).astype(np.float32)
    image[:30], image[:, 150:] = 0, 0  # what drift moved out of the canvas
    labels = disc((200, 180), 100, 80, 25).astype(np.int32)
    weight = np.zeros((200, 180), np.float32)
    weight[30:, :150] = 1
    lesson = Lesson("f", image, labels, weight, (30, 200, 0, 150))
    options = replace(OPTIONS, scale=(0.8, 1.2), invert=0.0)
    made = crops_of(lesson, 24, options, (1, 2))
    again = crops_of(lesson, 24, options, (1, 2))
    assert np.array_equal(made.images, again.images)
    assert np.mean(made.weight == 255) > 0.99  # but for the interpolated rim
    assert made.weight.min() >= 250
    assert min(float(i.astype(np.float32).min()) for i in made.images) > -5  # 0 counts would be 7 deviations down
    assert np.mean([(x > 0).any() for x in made.labels]) > 0.4
    assert len({row.tobytes() for row in made.images}) == 24
    assert len(np.unique(made.rows["angle"])) == 24


def test_thinning_is_binomial_so_poisson_stays_poisson() -> None:
    counts = np.random.default_rng(4).poisson(40, (300, 300)).astype(np.float32)
    thin = thinned(np.random.default_rng(5), counts, 0.25)
    assert thin.mean() == pytest.approx(10, rel=0.01)
    assert thin.var() == pytest.approx(10, rel=0.05)
    assert (thin <= counts).all()


def test_the_worst_lessons_are_dropped_and_drawn_ones_never() -> None:
    records = [Record(0, i, f"{i}", "", i / 10, "blur", False) for i in range(8)]
    records.append(Record(0, 9, "9", "", 0.0, lessons.BY_HAND, False))
    assert {r.frame for r in worth_learning(records, 0.25)} == {2, 3, 4, 5, 6, 7, 9}


def test_frames_to_label_are_the_least_sure_and_spread_in_time() -> None:
    sure = [0.9] * 40
    sure[10], sure[11], sure[12], sure[30] = 0.2, 0.21, 0.22, 0.4
    chosen = spread_out([Record(0, i, "", "", a, "", False) for i, a in enumerate(sure)], 2)
    assert [r.frame for r in chosen] == [10, 30]


def trials(scene: simulate.Movie, movie: Material) -> list[gate.Trial]:
    return [gate.trial(movie, i, Labels(), lessons_teacher(), 3, 0) for i in (10, 11)]


def lessons_teacher() -> str:
    from emstream.learn.recipes import model_folder

    return model_folder("default")


def test_the_gate_sees_through_models_that_are_consistent_but_wrong(scene: simulate.Movie, movie: Material) -> None:
    looked = trials(scene, movie)
    assert all(t.taught is not None and len(t.discs) >= 3 for t in looked)

    def right(image: np.ndarray) -> np.ndarray:
        import cv2

        return cv2.GaussianBlur(image.astype(np.float32), (0, 0), 2.0) < 0.84 * scene.dose

    def grown(image: np.ndarray) -> np.ndarray:
        import cv2

        return cv2.dilate(right(image).view(np.uint8), np.ones((9, 9), np.uint8)) > 0

    wrong = {
        "inverted": lambda image: ~right(image),
        "everything": lambda image: np.ones(image.shape, bool),
        "nothing": lambda image: np.zeros(image.shape, bool),
        "too wide": grown,
    }
    good = gate.examine(right, looked)
    assert good["score"] > 0.7
    for name, segment in wrong.items():
        marks = gate.examine(segment, looked)
        assert not gate.promoted(marks, good)[0], name
        assert gate.promoted(good, marks)[0], name


def test_a_networks_foreground_is_cut_where_it_fits_what_was_learned() -> None:
    torch.manual_seed(0)
    net = UNet((8, 16))
    images = np.random.default_rng(9).normal(size=(6, 64, 64)).astype(np.float16)
    with torch.inference_mode():
        p = net(torch.from_numpy(images.astype(np.float32))[:, None])[:, 0].sigmoid().numpy()
    level = float(np.quantile(p, 0.7))
    made = CropSet(images, (p > level).astype(np.uint16), np.full(p.shape, 255, np.uint8), np.zeros(6, ROW))
    made.rows["dose"] = 1
    assert calibrate(net, made) == pytest.approx(level, abs=0.03)
    with torch.inference_mode():
        after = net(torch.from_numpy(images.astype(np.float32))[:, None])[:, 0].sigmoid().numpy()
    assert overlap(after > SegmentOptions().threshold, p > level)[0] > 0.8


def test_labels_have_the_last_word_when_there_are_some() -> None:
    old = {"consistency": 0.9, "agreement": 0.9, "inserted": 0.8, "score": 0.867, "dice": 0.9}
    assert not gate.promoted({**old, "score": 0.9, "dice": 0.85}, old)[0]
    assert gate.promoted({**old, "dice": 0.95}, old)[0]
    assert not gate.promoted({**old, "consistency": 0.5, "dice": 0.95}, old)[0]


def test_a_student_of_a_poisoned_teacher_is_refused_and_the_old_model_stays(
    movie: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = lessons.lesson

    def poisoned(*given: object, **named: object) -> Lesson:
        made = honest(*given, **named)  # type: ignore[arg-type]
        return replace(made, labels=(made.labels == 0).astype(np.int32), weight=np.ones_like(made.weight))

    monkeypatch.setattr(lessons, "lesson", poisoned)
    options = replace(OPTIONS, epochs=4, steps_per_epoch=8, drawn=0.0, learning_rate=8e-3)
    with pytest.raises(JobFailed, match="refused"):
        train(options, [Path(movie.path)], tmp_path / "m")
    assert not (tmp_path / "m").exists()
    about = json.loads((tmp_path / "m.refused" / "model.json").read_text())
    assert about["validation"]["gate"]["promoted"] is False
    assert about["validation"]["checks"]["inserted"] < about["validation"]["checks_of_others"]["default"]["inserted"]


def test_a_data_set_tells_where_each_crop_is_from(movie: Material, tmp_path: Path) -> None:
    from emstream.learn import prepare

    seen = prepare.look_over([Path(movie.path)], "none", OPTIONS, prepare.here)
    records = prepare.teach(seen, "", tmp_path / "lessons", OPTIONS, prepare.here)
    path, kept = prepare.cut(seen, records, tmp_path / "crops.zarr", replace(OPTIONS, drop=0.0), prepare.here)
    root = zarr.open_group(path, mode="r")
    told = dict(root.attrs["emstream"])  # type: ignore[call-overload]
    assert told["complete"]
    assert told["sources"][0]["path"] == movie.path
    assert len(told["kept_for_validation"]) == 2
    assert root["images"].shape == (len(kept) * OPTIONS.crops, 64, 64)
    frames = set(np.asarray(root["rows/frame"][:]))
    assert frames == {r.frame for r in kept}
    assert not frames & {r.frame for r in records if r.sealed}


def test_a_frame_of_few_electrons_is_not_thinned_further() -> None:
    rng = np.random.default_rng(8)
    for dose, thinner in ((4, False), (80, True)):
        image = rng.poisson(dose, (96, 96)).astype(np.float32)
        lesson = Lesson("f", image, np.zeros((96, 96), np.int32), np.ones((96, 96), np.float32), (0, 96, 0, 96))
        made = crops_of(lesson, 12, OPTIONS, (3,))
        assert bool((made.rows["dose"] < 1).any()) is thinner
