"""train_distilbert: fine-tune the last layers of an encoder and a head.

Reads data/split/NAME and data/encoders/NAME.
Writes models/distilbert, and train_distilbert in metrics/, reports/ and plots/.
"""

from qc.stage import train

if __name__ == "__main__":
    train("distilbert")
