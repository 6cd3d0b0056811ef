"""Chapter 4: 1,000 labels, and what regularisation makes of them: six ways, five seeds each, one sweep.

Accuracy on the 10,000 test pictures, means and standard errors over the five seeds:

    none          0.8272 ± 0.0012   +0.00 ± 0.00 points   loss 1.08
    weight decay  0.8272 ± 0.0010   -0.00 ± 0.03 points   loss 0.85
    dropout       0.8360 ± 0.0011   +0.88 ± 0.12 points   loss 0.86
    augmentation  0.8510 ± 0.0016   +2.38 ± 0.17 points   loss 0.50
    mixup         0.8335 ± 0.0010   +0.63 ± 0.07 points   loss 0.57
    all           0.8367 ± 0.0013   +0.95 ± 0.15 points   loss 0.45

Only the augmentation was tuned (on other pictures; see the recipe). All together fits its training set worst, 0.75 against 0.93 with augmentation and
0.91 with mixup alone; whether more steps would help was not tried. A step takes 10 ms of one core; the sweep took 43 minutes on two very busy ones.
"""

# %% The recipe has an option for the way; nothing else differs.
import os

import numpy as np

import dljax
from dljax import recipes

STEPS = int(os.environ.get("STEPS", "2000"))
SEEDS = 5 if STEPS >= 100 else 1
METHODS = ["none", "weight decay", "dropout", "augmentation", "mixup", "all"]
build = recipes.get("fashion-mnist-1000/augmented").build

# %% Thirty runs. Each way is a program of its own, compiled once for its five seeds: what a way does not use costs it nothing.
sweep = dljax.sweep(lambda regularisation: build(regularisation=regularisation, steps=STEPS), {"regularisation": METHODS}, seeds=SEEDS)
print(f"{sweep.result['programs']} programs, {len(sweep.members)} runs, {sweep.result['seconds'] / 60:.1f} minutes")

# %% The table: means over the seeds, and their standard errors.
accuracy = sweep.values("accuracy").reshape(len(METHODS), SEEDS)
loss = sweep.values("loss").reshape(len(METHODS), SEEDS)
error = accuracy.std(1, ddof=SEEDS > 1) / SEEDS**0.5
print(f"{'':14}{'accuracy':>18}{'gain in points':>18}{'loss':>8}")
for number, method in enumerate(METHODS):
    gain = accuracy[number] - accuracy[0]  # seed by seed
    spread = gain.std(ddof=SEEDS > 1) / SEEDS**0.5
    print(
        f"{method:14}{accuracy[number].mean():10.4f} ± {error[number]:.4f}{100 * gain.mean():+11.2f} ± {100 * spread:.2f}{loss[number].mean():9.3f}"
    )

# %% A figure with error bars: two standard errors.
if __name__ == "__main__":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(METHODS))
    axes.bar(places, 100 * accuracy.mean(1), yerr=200 * error, capsize=4, color=["grey"] + ["C0"] * (len(METHODS) - 1))
    axes.plot(np.repeat(places, SEEDS), 100 * accuracy.ravel(), "k.", markersize=4)
    axes.axhline(100 * accuracy[0].mean(), color="grey", linestyle=":")
    axes.set_xticks(places, METHODS)
    axes.set(
        ylabel="test accuracy, %", title="1,000 pictures of clothes, means of five seeds", ylim=(100 * accuracy.min() - 1, 100 * accuracy.max() + 1)
    )
    figure.savefig("ch04_augmentation.png", dpi=150)
