"""train_scratch: train a transformer encoder from scratch.

Reads data/split/NAME, whose tokenizer it takes.
Writes models/scratch, and train_scratch in metrics/, reports/ and plots/.
"""

from qc.stage import train

if __name__ == "__main__":
    train("scratch")
