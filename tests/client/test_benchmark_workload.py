"""What benchmarks and load tests send, and how many users there are when."""

from __future__ import annotations

import base64
import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparseinst_client.benchmark.shapes import SHAPES, Plan, users_at
from sparseinst_client.benchmark.workload import WorkloadError, describe, perf_analyzer_input, read_samples
from sparseinst_runtime.decode import decode


@pytest.fixture(scope="module")
def samples(scenes):
    return read_samples([scenes / "images"], long_sides=(64, 200))


def test_every_picture_goes_out_as_itself_and_once_at_each_size(samples, scenes):
    files = {path.read_bytes() for path in (scenes / "images").iterdir()}
    assert files <= {sample.data for sample in samples}
    assert len({sample.data for sample in samples}) == 3 * len(files), "all differ"
    crops = [sample for sample in samples if sample.data not in files]
    assert sorted(max(crop.height, crop.width) for crop in crops) == [64] * len(files) + [200] * len(files)


def test_sizes_are_those_of_the_decoded_pictures(samples):
    for sample in samples[:8]:
        assert decode(sample.data).shape == (sample.height, sample.width, 3)


def test_every_run_sends_the_same_bytes_in_the_same_order(samples, scenes):
    assert samples == read_samples([scenes / "images"], long_sides=(64, 200))


def test_without_sizes_the_files_alone_go_out(scenes):
    assert len(read_samples([scenes / "images" / "scene_00.jpg"], long_sides=())) == 1


def test_a_folder_without_pictures_is_named(tmp_path):
    with pytest.raises(WorkloadError, match=r"no pictures .* among "):
        read_samples([tmp_path])


def test_a_file_that_is_no_picture_is_named(tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    with pytest.raises(WorkloadError, match=r"broken\.jpg: "):
        read_samples([tmp_path])


def test_the_description_tells_number_and_range(samples):
    assert describe(samples).startswith(f"{len(samples)} different pictures, ")


def test_perf_analyzer_gets_each_picture_as_a_string_with_its_length_before_it(samples):
    steps = json.loads(perf_analyzer_input(samples))["data"]
    assert len(steps) == len(samples)
    for step, sample in zip(steps, samples, strict=True):
        data = base64.b64decode(step["image"]["b64"])
        (length,) = struct.unpack("<I", data[:4])
        assert data[4:] == sample.data
        assert length == len(sample.data)


plans = st.builds(
    Plan, users=st.integers(2, 200), seconds=st.floats(1, 1e4), steps=st.integers(1, 20), base=st.integers(0, 2)
)


@given(plan=plans, share=st.floats(0, 0.999), shape=st.sampled_from(SHAPES))
def test_there_are_never_more_users_than_planned(plan, share, shape):
    assert 0 <= users_at(shape, plan, share * plan.seconds) <= plan.users


@given(plan=plans, shape=st.sampled_from(SHAPES))
def test_shapes_end_in_time(plan, shape):
    assert users_at(shape, plan, plan.seconds) is None


@given(plan=plans, shape=st.sampled_from(SHAPES))
def test_all_users_are_there_at_some_time(plan, shape):
    assert max(users_at(shape, plan, share / 100 * plan.seconds) for share in range(100)) == plan.users


@given(plan=plans, early=st.floats(0, 0.99), late=st.floats(0, 0.99), shape=st.sampled_from(["step", "ramp"]))
def test_steps_and_ramps_only_rise(plan, early, late, shape):
    early, late = sorted((early, late))
    assert users_at(shape, plan, early * plan.seconds) <= users_at(shape, plan, late * plan.seconds)


def test_a_step_has_its_stairs_and_a_spike_its_peak_in_the_middle():
    plan = Plan(users=10, seconds=100, steps=5, base=2)
    assert [users_at("step", plan, time) for time in (0, 19, 21, 41, 61, 99)] == [2, 2, 4, 6, 8, 10]
    assert [users_at("spike", plan, time) for time in (0, 39, 40, 59, 60, 99)] == [2, 2, 10, 10, 2, 2]


@pytest.mark.parametrize("wrong", [{"users": 0}, {"seconds": 0}, {"steps": 0}, {"base": 11}, {"base": -1}])
def test_impossible_plans_are_refused(wrong):
    with pytest.raises(ValueError, match="wanted at least 1 user"):
        Plan(**({"users": 10, "seconds": 10.0} | wrong))


def test_an_unknown_shape_is_named():
    with pytest.raises(ValueError, match="'wave'; wanted one of constant, step"):
        users_at("wave", Plan(1, 1), 0)
