"""The zoo: public architectures with random weights, each cut to half its width, checked, and compared with a peer."""
