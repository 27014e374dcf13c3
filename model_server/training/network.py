"""The convolutional network that ``model-server train`` fits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras

STEM_CHANNELS = 32
STAGE_CHANNELS = (64, 192, 224)
# Beyond this side a 3x3 convolution at full resolution costs more than it tells: halve first.
LARGEST_UNREDUCED_SIDE = 64


def build_network(size: int, classes: int) -> keras.Model:
    """Return a residual CNN of 1.3 M parameters with softmax scores.

    Input float32 [N, size, size, 3] in -1..1, output float32 [N, classes] that sums to 1 per row.
    Each stage halves the side, widens, and adds one residual convolution, after D. Page's ResNet-9
    (https://github.com/davidcpage/cifar10-fast), narrowed to fit 3 MB as float16.
    """
    import keras
    from keras import layers

    def convolution(features: Any, channels: int, *, halve: bool) -> Any:
        features = layers.Conv2D(channels, 3, padding="same", use_bias=False)(features)
        if halve:
            features = layers.MaxPooling2D(2)(features)
        features = layers.BatchNormalization(momentum=0.9)(features)
        return layers.Activation("relu")(features)

    image = keras.Input((size, size, 3), name="image")
    features = convolution(image, STEM_CHANNELS, halve=False)
    while features.shape[1] > LARGEST_UNREDUCED_SIDE:
        features = convolution(features, STEM_CHANNELS, halve=True)
    for channels in STAGE_CHANNELS:
        features = convolution(features, channels, halve=True)
        features = layers.Add()([features, convolution(features, channels, halve=False)])
    features = layers.GlobalMaxPooling2D()(features)
    scores = layers.Dense(classes, activation="softmax", dtype="float32", name="scores")(features)
    return keras.Model(image, scores, name="residual_cnn")


def with_mirror(model: keras.Model) -> keras.Model:
    """Return a model whose scores are the mean of ``model``'s for a picture and for its mirror image.

    Same input and output; about one point more right answers on photographs, for twice the inference.
    """
    import keras
    from keras import layers, ops

    image = keras.Input(model.input_shape[1:], name="image")
    both = model(ops.concatenate([image, ops.flip(image, axis=2)], axis=0))
    return keras.Model(image, layers.Average(name="scores")(ops.split(both, 2, axis=0)), name=f"mirrored_{model.name}")
