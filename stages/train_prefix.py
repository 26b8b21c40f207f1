"""train_prefix: train a prefix and a head on a frozen encoder.

Reads data/split/NAME and data/encoders/NAME.
Writes models/prefix, and train_prefix in metrics/, reports/ and plots/.
"""

from qc.stage import train

if __name__ == "__main__":
    train("prefix")
