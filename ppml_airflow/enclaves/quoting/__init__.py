"""The simulated platform's quoting service: it launches guests, measures them and quotes for them."""
