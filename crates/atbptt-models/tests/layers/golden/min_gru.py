"""Golden values of stacked minGRU layers (Feng et al. 2024): `python min_gru.py > min_gru.json`, with NumPy.

z = sigmoid(x Wz + bz), n = x Wn + bn, h' = (1 - z) h + z n, in float64. Gradients by complex steps of 1e-200, which have no
cancellation: exact to rounding, and written without any backward pass. A tap is added to the state that a step hands over.
"""

import json

import numpy as np

STEP = 1e-200


def run(values, layers):
    """Outputs [T, B, H] and the last state of every layer [layers, B, H]."""
    x, last = values["x"], []
    for k in range(layers):
        weight, bias = values[f"input_weight_{k}"], values[f"bias_{k}"]
        hidden = weight.shape[1] // 2
        h, outputs = values["h0"][k], []
        for t in range(x.shape[0]):
            a = x[t] @ weight + bias
            z, n = 1 / (1 + np.exp(-a[:, :hidden])), a[:, hidden:]
            made = (1 - z) * h + z * n
            outputs.append(made)
            # The last tap hands over to no step.
            h = made + values["taps"][k, t] if t + 1 < x.shape[0] else made
        x = np.stack(outputs)
        last.append(made)
    return x, np.stack(last)


def case(seed, layers, time, batch, inputs, hidden):
    rng = np.random.default_rng(seed)
    values = {"x": rng.normal(size=(time, batch, inputs)), "h0": rng.normal(size=(layers, batch, hidden))}
    for k in range(layers):
        values[f"input_weight_{k}"] = 0.6 * rng.normal(size=(hidden if k else inputs, 2 * hidden))
        values[f"bias_{k}"] = 0.3 * rng.normal(size=2 * hidden)
    values["taps"] = np.zeros((layers, time, batch, hidden))
    weights_y, weights_last = rng.normal(size=(time, batch, hidden)), rng.normal(size=(layers, batch, hidden))

    def loss(values):
        y, last = run(values, layers)
        return (y * weights_y).sum() + (last * weights_last).sum()

    grads = {}
    for name, value in values.items():
        grad = np.empty(value.shape)
        for at in np.ndindex(value.shape):
            moved = value.astype(complex)
            moved[at] += 1j * STEP
            grad[at] = loss({**values, name: moved}).imag / STEP
        grads[name] = grad
    y, last = run(values, layers)
    arrays = {**values, "y": y, "last": last, "weights_y": weights_y, "weights_last": weights_last}
    return {
        "layers": layers,
        **{name: array.tolist() for name, array in arrays.items()},
        "grads": {name: grad.tolist() for name, grad in grads.items()},
    }


if __name__ == "__main__":
    cases = [case(1, 1, 5, 2, 3, 4), case(2, 2, 4, 3, 2, 3)]
    print(json.dumps({"numpy": np.__version__, "cases": cases}))
