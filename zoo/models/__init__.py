"""Files become models, and models become files."""
