"""TensorFlow's files, checkpoints (V2) and TFRecords, read without TensorFlow and without executing anything."""
