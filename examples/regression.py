"""y = x² + noise: a net saved in both ways, restored in both ways, three identical plots.

    python examples/regression.py [folder]

`rekindle train regression` does the same. The first way saves the whole module, class and all; such a file usually
needs the code it was saved with, and executes what it says when it is opened. `rk.load` executes nothing and gives
its weights. The second way saves the weights alone, which is the better one.
"""

from __future__ import annotations

import sys

from rekindle.recipes.regression import train_regression

if __name__ == "__main__":
    result = train_regression(out=sys.argv[1] if len(sys.argv) > 1 else "runs/regression", epochs=60)
    print(f"mean squared error {result.loss:.4f} after {result.steps} steps")
    print(f"whole module: {result.whole}")
    print(f"weights:      {result.weights}")
    print(f"three plots:  {result.picture}")
    print(f"the three predictions are {'equal, bit for bit' if result.equal else 'NOT equal'}")
    sys.exit(0 if result.equal else 1)
