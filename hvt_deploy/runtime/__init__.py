"""Images to logits: one member per runtime behind the protocol in `base`."""
