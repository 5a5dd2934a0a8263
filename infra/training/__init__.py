"""The steps of a training: tagging, building the encoder, embedding."""
