"""TensorFlow as the articles' code needs it: legacy Keras behind it, quiet, and repeatable."""

import os
import subprocess
import sys

import numpy as np
import pytest

from bncourse.tf_layers import runtime, tf, tf1


def run(code, **environment):
    """Run code in a fresh interpreter, without what this process may have set for TensorFlow."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env={**clean, **environment}
    )


def test_tf_layers_work_after_the_import():
    with tf1.Graph().as_default():
        outputs = tf1.layers.dense(tf1.placeholder(tf.float32, (None, 3)), 2)
    assert outputs.shape.as_list() == [None, 2]


def test_import_is_silent_also_when_tensorflow_is_told_to_log():
    done = run("from bncourse.tf_layers import tf", TF_CPP_MIN_LOG_LEVEL="0")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_other_lines_on_standard_error_are_passed_on(capfd):
    with runtime._without_greetings():
        os.write(2, b"a real warning\n2026 oneDNN custom operations are on. You may see\nanother one\n")
    assert capfd.readouterr().err == "a real warning\nanother one\n"


def test_standard_error_is_restored_after_an_error(capfd):
    def fail():
        with runtime._without_greetings():
            os.write(2, b"before\n")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "before\nafter\n"


def test_import_refuses_when_tensorflow_came_first():
    done = run("import tensorflow; from bncourse.tf_layers import tf")
    assert done.returncode == 1
    assert "begin with 'from bncourse.tf_layers import tf'" in done.stderr
    assert "TF_USE_LEGACY_KERAS=1" in done.stderr


def test_import_accepts_tensorflow_that_was_set_up_before():
    assert run("import tensorflow; from bncourse.tf_layers import tf", TF_USE_LEGACY_KERAS="1").returncode == 0


def test_keras_3_is_to_be_had_in_the_same_process():
    import keras

    assert keras.__version__.startswith("3.")
    assert tf.keras.layers.Layer is not keras.layers.Layer


def kernel(initializer):
    with tf1.Graph().as_default():
        tf1.set_random_seed(3)
        tf1.layers.dense(tf1.placeholder(tf.float32, (None, 40)), 50, kernel_initializer=initializer)
        with tf1.Session() as session:
            session.run(tf1.global_variables_initializer())
            return session.run(tf1.trainable_variables()[0])


def test_start_weights_follow_the_seed_of_the_graph():
    np.testing.assert_array_equal(kernel(runtime.start_weights()), kernel(runtime.start_weights()))


def test_default_start_weights_do_not_follow_it():
    # The reason for start_weights. If this fails, tf-keras has mended it and start_weights may go.
    assert not np.array_equal(kernel(None), kernel(None))


def test_start_weights_are_glorot_uniform():
    weights = kernel(runtime.start_weights())
    limit = np.sqrt(6 / (40 + 50))
    assert np.abs(weights).max() < limit
    assert np.abs(weights).max() > 0.99 * limit
    assert weights.std() == pytest.approx(limit / np.sqrt(3), rel=0.05)


def test_an_identity_start_hands_on_every_map():
    from bncourse.tf_layers import tf, tf1
    from bncourse.tf_layers.runtime import identity_start

    x = np.random.default_rng(0).random((2, 6, 6, 4), np.float32)
    with tf1.Graph().as_default(), tf1.Session() as session:
        y = tf1.layers.conv2d(tf.constant(x), 6, 3, 1, "same", use_bias=False, kernel_initializer=identity_start())
        strided = tf1.layers.conv2d(
            tf.constant(x), 4, 3, 2, "same", use_bias=False, kernel_initializer=identity_start()
        )
        session.run(tf1.global_variables_initializer())
        y, strided = session.run([y, strided])
        kernel = session.run(tf1.trainable_variables()[0])
    assert np.array_equal(y[..., :4], x)
    # "same" pads an even side behind only, so the windows stand at 0, 2, 4 and their centres at 1, 3, 5.
    assert np.array_equal(strided, x[:, 1::2, 1::2])
    np.testing.assert_allclose(np.sum(kernel**2, axis=(0, 1, 2)), 1, rtol=1e-5)
    assert len({str(kernel[..., k]) for k in (4, 5)}) == 2


def test_an_identity_start_of_one_input_is_random():
    """Copies of a single map would stay copies."""
    from bncourse.tf_layers import tf1
    from bncourse.tf_layers.runtime import identity_start

    with tf1.Graph().as_default(), tf1.Session() as session:
        kernel = session.run(identity_start()((3, 3, 1, 4)))
    assert np.abs(np.corrcoef(kernel.reshape(9, 4).T) - np.eye(4)).max() < 0.9
