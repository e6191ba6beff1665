"""Steps that turn kernels: their length, their angle, and what they leave to Adam."""

import numpy as np
import pytest

from bncourse.tf_layers import tf, tf1
from bncourse.tf_layers.deep_network import build_deep_network
from bncourse.tf_layers.optimizers import GRADIENT_MOMENTUM, minimize, orthogonalised

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(12, 5), (5, 12), (7, 7)])
def test_singular_values_become_about_equal_and_vectors_stay(shape):
    left, _, right = np.linalg.svd(RNG.normal(size=shape), full_matrices=False)
    values = np.geomspace(1, 0.05, min(shape))
    matrix = (left * values) @ right
    with tf1.Graph().as_default(), tf1.Session() as session:
        found = session.run(orthogonalised(tf.constant(matrix, tf.float32)))
    inside = left.T @ found @ right.T
    assert np.abs(inside - np.diag(np.diag(inside))).max() < 1e-3
    assert np.diag(inside).min() > 0.6
    assert np.diag(inside).max() < 1.3


def test_the_size_of_the_gradient_does_not_matter():
    matrix = RNG.normal(size=(6, 4)).astype(np.float32)
    with tf1.Graph().as_default(), tf1.Session() as session:
        small, large = session.run([orthogonalised(tf.constant(scale * matrix)) for scale in (1e-5, 1e5)])
    np.testing.assert_allclose(small, large, rtol=1e-3, atol=1e-4)


def steps(count, angle):
    """Turn one kernel, beside a bias that Adam trains, for a linear loss; return both before and after each step."""
    slope = RNG.normal(size=(6, 4)).astype(np.float32)
    with tf1.Graph().as_default(), tf1.Session() as session:
        kernel = tf1.get_variable("layer/kernel", initializer=3 * np.ones((6, 4), np.float32))
        bias = tf1.get_variable("layer/bias", initializer=np.zeros(4, np.float32))
        loss = tf.reduce_sum(slope * kernel) + tf.reduce_sum(bias)
        taken = tf1.train.create_global_step()
        train_op = minimize(loss, "muon", tf.constant(angle), turned=[kernel], steps=taken)
        session.run(tf1.global_variables_initializer())
        seen = []
        for _ in range(count):
            session.run(train_op)
            seen.append(session.run([kernel, bias]))
        mean = next(v for v in tf1.global_variables() if "gradient_mean" in v.name)
        return slope, seen, session.run(mean), session.run(taken)


def test_a_turned_kernel_has_length_one_and_turns_by_the_angle():
    slope, seen, _, taken = steps(2, 0.1)
    first, second = seen[0][0], seen[1][0]
    assert np.linalg.norm(first) == pytest.approx(1, abs=1e-6)
    left, _, right = np.linalg.svd(slope, full_matrices=False)
    start = np.ones((6, 4)) / np.sqrt(24)
    direction = left @ right / 2  # singular values all equal, length 1
    wanted = start - 0.1 * direction
    cosine = np.sum(first * wanted / np.linalg.norm(wanted))
    assert cosine > 0.999  # the polynomial makes the singular values only about equal
    assert 0.02 < np.arccos(np.sum(first * start)) <= 0.11
    assert 0.02 < np.arccos(np.sum(first * second)) <= 0.11
    assert taken == 2


def test_the_rest_is_adams():
    _, seen, _, _ = steps(3, 0.125)
    for count, (_, bias) in enumerate(seen, start=1):
        np.testing.assert_allclose(bias, -0.125 * count, rtol=1e-5)  # Adam under a constant gradient


def test_the_mean_of_the_gradients():
    slope, _, mean, _ = steps(3, 0.1)
    np.testing.assert_allclose(mean, slope * sum(GRADIENT_MOMENTUM**k for k in range(3)), rtol=1e-5)


def test_the_deep_network_turns_all_kernels_but_that_of_the_logits():
    network = build_deep_network(conv_layers=2, optimizer="muon")
    names = [v.op.name for v in network.graph.get_collection("variables") if "gradient_mean" in v.op.name]
    assert names == [f"{layer}/kernel/gradient_mean" for layer in ("conv2d", "conv2d_1", "dense")]


def test_without_bn_nothing_is_turned():
    network = build_deep_network(conv_layers=2, optimizer="muon", batch_norm=False)
    assert not [v for v in network.graph.get_collection("variables") if "gradient_mean" in v.op.name]
