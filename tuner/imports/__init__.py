"""What other tools' configurations say in our words: a table a peer (`axolotl.py`), and `read.py`, which goes through a file by them."""
