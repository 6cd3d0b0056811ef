"""Chapter 7: a karate club that is about to split, seen by its Laplacian and by random walks. No label is used.

The sign of Fiedler's vector puts 32 of the 34 members into the faction that they joined, the nearer leader in DeepWalk's embedding 33 (32 to 33 in
five runs). The largest eigenvalue is 1.7: no part of the club is bipartite. About 11 seconds on one core, mostly compilation.
"""

# %% The real data: 34 members, 78 friendships, and the two factions of the split (Zachary, 1977).
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dljax import core, data, nn
from dljax.supervised import node_embeddings

STEPS = int(os.environ.get("STEPS", "300"))
club = data.load("karate")
graph = nn.single_graph(club["x"], club["senders"], club["receivers"])
factions = club["y"]

# %% The spectrum: one eigenvalue 0, since the club is still one component; the small second one says that few friendships hold it together.
spectrum = jax.jit(nn.laplacian_spectrum)(graph)
values, fiedler = np.asarray(spectrum.values), np.asarray(spectrum.vectors[:, 1])
fiedler = fiedler * np.sign(fiedler[33])  # an eigenvector has no sign; 33 is the president, faction 1
by_spectrum = (fiedler > 0).astype(int)
print(f"eigenvalues: {values[0]:.3f}, {values[1]:.3f}, {values[2]:.3f} ... {values[-1]:.3f}")
print(f"the sign of Fiedler's vector agrees with {(by_spectrum == factions).sum()} of 34 members")

# %% The random walk: in the long run it is at a member as often as he has friends; PageRank puts the two leaders on top.
longrun = nn.stationary_distribution(nn.transition_matrix(graph))
leaders = np.argsort(-np.asarray(nn.pagerank(graph)))[:2]
print(f"largest difference from degree / sum of degrees: {jnp.abs(longrun - nn.degrees(graph) / nn.degrees(graph).sum()).max():.1e}")
print(f"the first two by PageRank: {sorted(leaders.tolist())}; the instructor is 0, the president 33")

# %% DeepWalk: walks are sentences, members are words, and who meets often gets similar embeddings.
source = data.random_walks(graph, batch_size=34, length=20)
noise = np.asarray(nn.degrees(graph)) ** 0.75
learner = node_embeddings(34, optax.adam(0.02), dimension=8, window=5, num_noise=32, noise=noise)


@jax.jit
def train(key):
    run_key, state, cursor = core.start(learner, source, key)
    state, *_ = core.unroll(learner, source, STEPS, STEPS)(run_key, 0, state, cursor)
    return learner.params(state)["input"]


runs = np.asarray(jax.vmap(train)(jax.random.split(jax.random.key(0), 5)))
directions = runs / np.linalg.norm(runs, axis=-1, keepdims=True)
# Each member joins the leader whose embedding points more nearly where his own does.
likeness = np.einsum("rnd,rld->rnl", directions, directions[:, [0, 33]])
by_walks = likeness.argmax(-1)
print(f"the leader nearer in DeepWalk's embedding: {(by_walks == factions).sum(1).tolist()} of 34 members in five runs")

# %% A figure: the club laid out by its second and third eigenvectors; the filling is what was found, the rim the faction that a member joined.
if __name__ == "__main__":
    from matplotlib.figure import Figure

    # Eigenvectors of D⁻¹L: members are placed near the mean of their friends.
    places = np.asarray(nn.laplacian_spectrum(graph, "random-walk").vectors[:, 1:3])
    colours = np.array(["#0072B2", "#D55E00"])
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    axes = figure.subplots(1, 3)
    axes[0].plot(values, "o")
    axes[0].set(xlabel="number", ylabel="eigenvalue", title="Spectrum of the normalised Laplacian", ylim=(-0.05, 2))
    for panel, found, title in zip(axes[1:], (by_spectrum, by_walks[0]), ("the sign of Fiedler's vector", "DeepWalk's nearer leader"), strict=True):
        for here, there in zip(club["senders"], club["receivers"], strict=True):
            panel.plot(*places[[here, there]].T, color="#CCCCCC", linewidth=0.6, zorder=1)
        panel.scatter(*places.T, s=90, color=colours[found], edgecolor=colours[factions], linewidth=2.5, zorder=2)
        for member in (0, 33):
            panel.annotate(str(member), places[member], ha="center", va="center", color="white", fontsize=8)
        panel.set(xticks=[], yticks=[], title=f"{title}: {(found == factions).sum()} of 34 right")
    figure.savefig("ch07_graph_spectrum.png", dpi=150)
