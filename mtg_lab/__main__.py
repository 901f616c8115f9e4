"""``python -m mtg_lab`` is ``mtg-lab``, also for each of the processes that torchrun starts."""

from mtg_lab.cli import main

if __name__ == "__main__":
    main(prog_name="mtg-lab")
