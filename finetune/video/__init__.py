"""Raw video: decoded, its faces found and aligned."""
